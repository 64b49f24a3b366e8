"""Writes a trained backbone in the layout its family was published in.

The embedder trains the backbone without language-model head. What is written is the whole
generative model again: transformers, sentence-transformers and vLLM all read that layout, and a
judge or a reranker can start from it. The head comes from tied embeddings or from the checkpoint
the training started from.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unime.core.console import log
from unime.core.files import write_json
from unime.core.loading import empty_model
from unime.models.adapters import ADAPTER_FOLDER, merged, save_adapter
from unime.models.model_config import ModelConfig


def save_backbone(
    backbone: Any, processor: Any, config: ModelConfig, description: Mapping[str, Any], folder: Path
) -> None:
    """Write merged weights, adapter, processor, wrapped template and `unime.json` into a folder.

    Args:
        backbone: the transformers model without head; unchanged afterwards.
        processor: its processor, with the wrapped template.
        config: what the training started from.
        description: the content of `unime.json`: how inputs are to be prepared.
        folder: created when missing; the caller makes the whole atomic where that matters.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with whole_model(backbone, config) as model:
        model.save_pretrained(folder)
    save_adapter(backbone, config.id, folder / ADAPTER_FOLDER)
    # The last call's padding would be saved with the tokenizer, and make equal models differ.
    processor.tokenizer.backend_tokenizer.no_padding()
    processor.tokenizer.backend_tokenizer.no_truncation()
    processor.save_pretrained(folder)
    write_json(folder / "unime.json", description)


@contextmanager
def whole_model(backbone: Any, config: ModelConfig) -> Iterator[Any]:
    """Yield the generative model around a backbone, adapters merged, sharing its memory.

    The bare backbone is yielded, and said so, when the checkpoint that `config` names has no head.
    """
    with merged(backbone):
        try:
            with torch.device("meta"):
                model = empty_model("AutoModelForImageTextToText", _plain_config(backbone))
        except ValueError:
            log(f"{config.id}: no generative class for this model; saved without head")
            yield backbone
            return
        head = _head(backbone, config, model)
        if head is None:
            log(f"{config.id} has no language-model head; saved without one")
            yield backbone
            return
        setattr(model, model.base_model_prefix, backbone)
        model.set_output_embeddings(head)
        left = [name for name, value in model.named_parameters() if value.is_meta]
        assert not left, f"weights outside backbone and head: {left}"
        yield model


def _plain_config(backbone: Any) -> Any:
    """Return the configuration without our own attention (`unime.models.vision`).

    By its name the auto classes take it for an installed flash attention, and refuse.
    """
    config = copy.deepcopy(backbone.config)
    config._attn_implementation = "sdpa"
    for name in config.sub_configs:
        getattr(config, name)._attn_implementation = "sdpa"
    return config


def _head(backbone: Any, config: ModelConfig, model: Any) -> nn.Linear | None:
    """Return the language-model head: the tied embeddings, or the starting checkpoint's."""
    if backbone.config.tie_word_embeddings:
        weight: Tensor | None = backbone.get_input_embeddings().weight
    else:
        weight = _read_head(config.id, config.revision)
    if weight is None:
        return None
    shape = tuple(model.get_output_embeddings().weight.shape)
    assert tuple(weight.shape) == shape, f"head {tuple(weight.shape)}, expected {shape}"
    head = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    head.weight = (
        weight
        if isinstance(weight, nn.Parameter)
        else nn.Parameter(weight.to(backbone.dtype), requires_grad=False)
    )
    return head


def _read_head(name: str, revision: str | None) -> Tensor | None:
    """Read the head's weight, and nothing else, from a folder or a cached Hub checkpoint."""
    from safetensors import safe_open
    from transformers.utils.hub import cached_file

    from unime.core.files import read_json

    missing = {
        "_raise_exceptions_for_missing_entries": False,
        "_raise_exceptions_for_connection_errors": False,
    }
    index = cached_file(name, "model.safetensors.index.json", revision=revision, **missing)
    shard = "model.safetensors"
    if index is not None:
        places = read_json(index)["weight_map"]
        shard = next((places[key] for key in places if key.endswith("lm_head.weight")), shard)
    path = cached_file(name, shard, revision=revision, **missing)
    if path is None:
        return None
    with safe_open(path, framework="pt") as tensors:
        key = next((key for key in tensors.keys() if key.endswith("lm_head.weight")), None)  # noqa: SIM118
        return None if key is None else tensors.get_tensor(key)
