"""What a model's folder says about itself: how its inputs are prepared, and what kind of model it is.

Training and export write `unime.json` beside the weights. Who names such a folder in Python need not
say again which prompt, pixels and length it was trained with. No torch is loaded here.
"""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypedDict

from unime.core import files
from unime.core.config import checked
from unime.core.errors import ModelError
from unime.models.model_config import ModelConfig
from unime.models.prompts import EmbedPrompt

FACTS = "unime.json"

Kind = Literal["embedder", "reranker", "judge"]


class ModelSettings(TypedDict, total=False):
    """How a model is loaded and its inputs are prepared: the fields of `ModelConfig` but the `id`."""

    revision: str | None
    prompt: str
    dtype: Literal["auto", "float32", "bfloat16", "float16", "nf4"]
    attn_implementation: str
    min_pixels: int
    max_pixels: int
    max_length: int


ModelLike = str | PathLike[str] | Mapping[str, Any]
"""A folder, a Hub id, what a training returned, or a recipe's section: {"id": ..., "dtype": ...}."""


class Described(NamedTuple):
    """An embedder as it wants to be loaded."""

    config: ModelConfig
    prompt: EmbedPrompt | None
    """The prompt that lies in the folder itself, in place of the one that `config` names."""


def model_folder(model: str | PathLike[str], kind: Kind) -> str:
    """Return where a model lies: itself, or `model/`, `embedder/`, `reranker/` in a stage's output."""
    name = fspath(model)
    for below in ("model", "reranker" if kind == "reranker" else "embedder"):
        if (Path(name) / below / "config.json").is_file():
            return (Path(name) / below).as_posix()
    return name


def model_section(model: ModelLike, kind: Kind) -> dict[str, Any]:
    """Return a recipe's section for a model: what its folder says, and over it what the user said.

    Args:
        model: see `ModelLike`.
        kind: what it is to be; the prompts of another kind are left out.

    Raises:
        ModelError: when a section has no `id`.
    """
    given: dict[str, Any] = dict(model) if isinstance(model, Mapping) else {"id": model}
    if "id" not in given:
        raise ModelError(f"a model's section needs an id: a folder or a Hub id; got {given}")
    folder = model_folder(given["id"], kind)
    facts = described(folder, given.get("revision"))
    known = dict(facts.get("model", {}))
    written_as = "reranker" if facts.get("kind") == "reranker" else "embedder"
    if written_as != kind:
        # Another kind asks in other words.
        known = {key: value for key, value in known.items() if not key.endswith("prompt")}
    return {**known, **given, "id": folder}


def embedder_config(model: str | PathLike[str], settings: Mapping[str, Any]) -> Described:
    """Return how to load an embedder: as its folder says, or as a plain model with our defaults.

    Args:
        model: a folder, a stage's output, or a Hub id.
        settings: `ModelSettings`, in place of what the folder says.

    Raises:
        ModelError: when it is a reranker.
        RecipeError: for a setting that there is not.
    """
    folder = model_folder(model, "embedder")
    facts = described(folder, settings.get("revision"))
    if facts.get("kind") == "reranker":
        raise ModelError(f"{folder} is a reranker; load it with unime.Reranker")
    section = model_section({**settings, "id": folder}, "embedder")
    config = checked(section, ModelConfig, f"the model {folder}")
    has_own = "prompt" in facts and "prompt" not in settings
    return Described(config, EmbedPrompt(**facts["prompt"]) if has_own else None)


def described(model: str, revision: str | None = None) -> dict[str, Any]:
    """Return a model's `unime.json`; empty for a model that unime has not written."""
    path = Path(model) / FACTS
    if path.is_file():
        return files.read_json(path)
    if Path(model).exists() or model.count("/") > 1 or model.startswith((".", "~", "/")):
        return {}
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return files.read_json(hf_hub_download(model, FACTS, revision=revision))
    # Not there, not at hand, no such repository: whoever loads the model says what is wrong.
    except (OSError, HfHubHTTPError, HFValidationError):
        return {}
