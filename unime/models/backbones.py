"""A checkpoint's model and processor, loaded in the shape that a room needs, and prepared alike.

A model that answers, with its head, for judge and reranker; an embedder's modules, by sentence-transformers
or by transformers alone: importing sentence-transformers takes longer than everything else a single search
does, and a test holds both to the same embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from unime.core.errors import ModelError
from unime.core.loading import load_config, load_processor, load_transformer, load_weights
from unime.models.inputs import Renderer
from unime.models.model_config import ModelConfig
from unime.models.processor import follow_grids, prepare_processor
from unime.models.prompts import load_prompt
from unime.models.vision import speed_up_vision

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


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


class Backbone(nn.Module):
    """What sentence-transformers calls Transformer: a model and its processor."""

    def __init__(self, model: Any, processor: Any) -> None:
        super().__init__()
        self.model = model
        self.processor = processor


class PlainModules(nn.ModuleList):
    """Backbone, last token, length 1."""

    def __init__(self, model: Any, processor: Any) -> None:
        super().__init__([Backbone(model, processor)])

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the features with "sentence_embedding" `(batch, dim)` in them; right padded."""
        backbone: Any = self[0]
        hidden = backbone.model(**features).last_hidden_state
        last = features["attention_mask"].sum(dim=1) - 1
        return {**features, "sentence_embedding": pooled(hidden, last)}

    def get_embedding_dimension(self) -> int:
        """Return the length of an embedding."""
        backbone: Any = self[0]
        return int(backbone.model.config.get_text_config().hidden_size)


def pooled(
    hidden: Float[Tensor, "batch length dim"], last: Int[Tensor, " batch"]
) -> Float[Tensor, "batch dim"]:
    """Return each row's hidden state at its last token, of length 1."""
    rows = torch.arange(len(hidden), device=hidden.device)
    return nn.functional.normalize(hidden[rows, last], dim=1)


def renderer_of(config: ModelConfig) -> tuple[Renderer, Any]:
    """Return what prepares a model's inputs, and its configuration; no weights are loaded."""
    processor = load_processor(config.id, config.revision)
    prepare_processor(processor, config, "right", images_first=True)
    model = load_config(config.id, config.revision)
    follow_grids(model, processor)
    renderer = Renderer(processor, load_prompt(config.prompt), config.max_length, config.id)
    return renderer, model


def load_plain(config: ModelConfig) -> Any:
    """Load an embedder's modules on transformers alone."""
    model = load_weights(
        "AutoModel",
        config.id,
        config.revision,
        **_weights(config.dtype),
        attn_implementation=config.attn_implementation,
    )
    processor = load_processor(config.id, config.revision)
    _prepare(model, processor, config)
    return PlainModules(model, processor)


def _prepare(model: Any, processor: Any, config: ModelConfig) -> None:
    speed_up_vision(model)
    prepare_processor(processor, config, "right", images_first=True)
    follow_grids(model.config, processor)


def load_modules(config: ModelConfig) -> SentenceTransformer:
    """Build Transformer, last-token Pooling and Normalize around the checkpoint's backbone."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Normalize
    from sentence_transformers.sentence_transformer.modules import Pooling

    output = {"method": "forward", "method_output_name": "last_hidden_state"}
    message = {**output, "format": "structured"}
    modalities: Any = {"text": output, "image": output, "message": message}
    transformer = load_transformer(
        config.id,
        config.revision,
        {**_weights(config.dtype), "attn_implementation": config.attn_implementation},
        modality_config=modalities,
        module_output_name="token_embeddings",
    )
    _prepare(transformer.model, transformer.processor, config)
    transformer.processing_kwargs = {"text": {"max_length": config.max_length}}
    pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode="lasttoken")
    return SentenceTransformer(modules=[transformer, pooling, Normalize()], device="cpu")


def _weights(dtype: str) -> dict[str, Any]:
    """Return how transformers is to load the weights.

    Raises:
        ModelError: when 4-bit weights are asked for without bitsandbytes.
    """
    if dtype != "nf4":
        return {"dtype": dtype}
    from importlib.util import find_spec

    if find_spec("bitsandbytes") is None:
        raise ModelError("dtype nf4 (QLoRA) needs bitsandbytes: pip install bitsandbytes")
    from transformers import BitsAndBytesConfig

    # Dettmers et al. 2023 (arXiv 2305.14314): NF4, its constants quantised too.
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return {"dtype": "bfloat16", "quantization_config": quantization}
