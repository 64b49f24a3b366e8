"""Writes a trained backbone in the layout its family was published in.

The embedder trains the backbone without language-model head. What is written is the whole
generative model again: transformers, sentence-transformers and vLLM all read that layout, and a
judge or a reranker can start from it. The head comes from tied embeddings or from the checkpoint
the training started from.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from unime.core.console import log
from unime.core.files import write_json
from unime.models.adapters import merged

if TYPE_CHECKING:
    from unime.models.embedder import Embedder


def save_embedder(embedder: Embedder, folder: Path) -> None:
    """Write merged weights, adapter, processor, wrapped template and `unime.json` into a folder.

    Args:
        embedder: unchanged afterwards.
        folder: created when missing; the caller makes the whole atomic where that matters.
    """
    from unime.models.adapter_files import NAME, save_adapter

    folder.mkdir(parents=True, exist_ok=True)
    with whole_model(embedder) as model:
        model.save_pretrained(folder)
    save_adapter(embedder, folder / NAME)
    # The last call's padding would be saved with the tokenizer, and make equal models differ.
    embedder.tokenizer.backend_tokenizer.no_padding()
    embedder.tokenizer.backend_tokenizer.no_truncation()
    embedder.processor.save_pretrained(folder)
    write_json(folder / "unime.json", description(embedder))


def description(embedder: Embedder) -> dict[str, Any]:
    """Return what a model folder says about how its inputs are to be prepared."""
    model = embedder.config.model_dump(mode="json", exclude={"id", "revision"})
    return {
        "model": model,
        "preprocessing": embedder.preprocessing,
        "fingerprint": embedder.fingerprint,
        "prompt": {
            "id": embedder.prompt.id,
            "hash": embedder.prompt.hash,
            "levels": dict(embedder.prompt.levels),
        },
    }


@contextmanager
def whole_model(embedder: Embedder) -> Iterator[Any]:
    """Yield the generative model around the backbone, adapters merged, sharing its memory.

    The bare backbone is yielded, and said so, when the starting checkpoint has no head.
    """
    from unime.models.loading import empty_model

    backbone = embedder.backbone
    with merged(backbone):
        try:
            with torch.device("meta"):
                model = empty_model("AutoModelForImageTextToText", _plain_config(backbone))
        except ValueError:
            log(f"{embedder.config.id}: no generative class for this model; saved without head")
            yield backbone
            return
        head = _head(embedder, model)
        if head is None:
            log(f"{embedder.config.id} has no language-model head; saved without one")
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


def _head(embedder: Embedder, model: Any) -> nn.Linear | None:
    """Return the language-model head: the tied embeddings, or the starting checkpoint's."""
    backbone = embedder.backbone
    if backbone.config.tie_word_embeddings:
        weight: Tensor | None = backbone.get_input_embeddings().weight
    else:
        weight = _read_head(embedder.config.id, embedder.config.revision)
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
