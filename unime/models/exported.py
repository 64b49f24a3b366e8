"""Loads what `unime export` wrote, exactly as it says it wants to be used."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from unime.core import files
from unime.core.errors import ModelError
from unime.models.model_config import ModelConfig
from unime.models.prompts import EmbedPrompt

if TYPE_CHECKING:
    from unime.models.embedder import Embedder


def exported_folder(model: Path | str, revision: str | None = None) -> Path:
    """Return the folder of an export: itself, an export stage's output, or a Hub id's snapshot.

    Raises:
        ModelError: when there is none.
    """
    folder = Path(model)
    if (folder / "embedder").is_dir():
        return folder / "embedder"
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(model), revision=revision))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{model} is no folder, and cannot be had from the Hub: {' '.join(str(error).split())}"
        ) from None


def load_exported(
    model: Path | str,
    device: str | None = None,
    revision: str | None = None,
    *,
    plain: bool = False,
) -> Embedder:
    """Load an export with the prompt and preprocessing that lie in it.

    Args:
        model: see `exported_folder`.
        device: "cpu", "cuda:0", ...; by default a GPU if there is one.
        revision: of a Hub id.
        plain: without sentence-transformers, whose import takes seconds.

    Raises:
        ModelError: when it is no export.
    """
    from unime.models.embedder import Embedder

    folder = exported_folder(model, revision)
    facts = read_export_file(folder, "unime.json")
    config = ModelConfig(id=str(folder), **facts["model"])
    prompt = EmbedPrompt(**facts["prompt"])
    # A search starts in a second; what it searches with was checked when it was exported.
    return Embedder.load(config, device, prompt, plain=plain, check=not plain)


def read_export_file(folder: Path, name: str) -> Any:
    """Read one of an export's JSON files.

    Raises:
        ModelError: when it is missing or damaged.
    """
    path = folder / name
    if not path.is_file():
        raise ModelError(f"{path} is missing; expected a folder written by 'unime export'")
    try:
        return files.read_json(path)
    except ValueError as error:
        raise ModelError(f"{path} is damaged: {error}; export the model again") from None
