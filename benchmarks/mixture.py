"""What all benchmarks work on: a tiny random Qwen2-VL, and a mixture of texts and pictures.

Text lengths are log-normal, 10 to 200 tokens; 60 % of the items have a picture, at one of two
resolutions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.common import say
from unime.models.embedder import Embedder
from unime.models.inputs import ModelInput
from unime.models.model_config import ModelConfig
from unime.models.vision_input import VisionInput

SIDES = (56, 112)
"""Of the pictures, in pixels."""
WITH_PICTURE = 0.6


def build_model(folder: Path) -> ModelConfig:
    """Write a Qwen2-VL of two million parameters with random weights and return its section."""
    import transformers

    from tests.families import build_family

    build_family("qwen2_vl", folder)
    config: Any = transformers.AutoConfig.from_pretrained(folder)
    text, vision = config.text_config, config.vision_config
    text.hidden_size, text.intermediate_size, text.num_hidden_layers = 192, 512, 4
    text.layer_types = ["full_attention"] * text.num_hidden_layers
    text.num_attention_heads, text.num_key_value_heads = 4, 2
    text.rope_parameters = {**text.rope_parameters, "mrope_section": [8, 8, 8]}
    vision.embed_dim, vision.hidden_size, vision.num_heads, vision.depth = 128, 192, 4, 4
    torch.manual_seed(0)
    model: Any = transformers.Qwen2VLForConditionalGeneration(config)
    model.save_pretrained(folder)
    say(f"model: {sum(p.numel() for p in model.parameters()):,} parameters")
    return ModelConfig(
        id=str(folder), dtype="float32", min_pixels=SIDES[0] ** 2, max_pixels=SIDES[1] ** 2
    )


def inputs(count: int, seed: int, side: str = "query") -> list[ModelInput]:
    """Return so many distinct inputs."""
    rng = np.random.default_rng(seed)
    lengths = np.clip(np.exp(rng.normal(3.6, 0.7, count)), 10, 200).astype(int)
    words = np.array(["red", "circle", "left", "of", "a", "blue", "square", "below", "the", "star"])
    return [
        ModelInput(f"{i} {' '.join(rng.choice(words, max(1, length - 4)))}", _picture(rng), side)
        for i, length in enumerate(lengths.tolist())
    ]


def stock_module(config: ModelConfig) -> Any:
    """Return the model as sentence-transformers itself builds it, without anything of ours."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    output = {"method": "forward", "method_output_name": "last_hidden_state"}
    modalities: Any = {
        "text": output,
        "image": output,
        "message": {**output, "format": "structured"},
    }
    transformer = Transformer(
        config.id, modality_config=modalities, module_output_name="token_embeddings"
    )
    pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode="lasttoken")
    return SentenceTransformer(modules=[transformer, pooling, Normalize()], device="cpu")


def adapted(config: ModelConfig, tune: dict[str, Any]) -> tuple[Embedder, Any]:
    """Return our embedder and a stock module with the same adapters on both."""
    from unime.models.adapters import LoraSection, train_parts

    embedder, stock = Embedder.load(config, "cpu"), stock_module(config)
    train_parts(embedder.backbone, LoraSection(**tune))
    train_parts(stock[0].model, LoraSection(**tune))
    stock[0].model.load_state_dict(embedder.backbone.state_dict())
    for module in (embedder.module, stock):
        module.train()
    assert isinstance(embedder.backbone.get_image_features, VisionInput)
    return embedder, stock


def _picture(rng: np.random.Generator) -> Image.Image | None:
    if rng.random() > WITH_PICTURE:
        return None
    side = SIDES[int(rng.integers(len(SIDES)))]
    return Image.fromarray(rng.integers(0, 255, (side, side, 3), dtype=np.uint8))
