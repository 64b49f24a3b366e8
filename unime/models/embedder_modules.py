"""The modules an embedder is made of: stock sentence-transformers, or transformers alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from unime.core.config import ModelConfig
from unime.core.errors import ModelError
from unime.models.loading import load_processor, load_transformer, load_weights
from unime.models.plain import PlainModules
from unime.models.processor import follow_grids, prepare_processor
from unime.models.vision import speed_up_vision

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def plain_modules(config: ModelConfig) -> Any:
    """Return the modules of an embedder that stands on transformers alone."""
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


def stock_modules(config: ModelConfig) -> SentenceTransformer:
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
