"""A vision-language model that answers: for the in-process judge, and for base training."""

from __future__ import annotations

from typing import Any

from unime.core.errors import ModelError
from unime.core.loading import load_processor, load_weights
from unime.models.model_config import ModelConfig
from unime.models.processor import follow_grids, prepare_processor
from unime.models.vision import speed_up_vision


def load_generative(config: ModelConfig, device: str | None = None) -> tuple[Any, Any, Any]:
    """Load a model with its language-model head.

    Args:
        config: model, dtype and pixel limits; its prompt is not used.
        device: "cpu", "cuda:0", ...; by default a GPU if there is one.

    Returns:
        The model in evaluation mode, its processor (wrapped chat template: always ends in the
        generation prompt, special tokens in texts are ordinary text; images stay where they are
        among the texts) and its tokenizer, which pads left.

    Raises:
        ModelError: when it is no vision-language model, or cannot be loaded.
    """
    if config.dtype == "nf4":
        raise ModelError(
            f"dtype nf4 of {config.id}: 4-bit weights (QLoRA) are for embedders; a reranker or judge "
            "takes auto, float32, bfloat16 or float16"
        )
    import torch

    model = load_weights(
        "AutoModelForImageTextToText",
        config.id,
        config.revision,
        dtype=config.dtype,
        attn_implementation=config.attn_implementation,
    )
    processor = load_processor(config.id, config.revision)
    prepare_processor(processor, config, "left", images_first=False)
    follow_grids(model.config, processor)
    speed_up_vision(model)
    model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()
    return model, processor, processor.tokenizer
