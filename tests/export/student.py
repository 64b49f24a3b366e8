"""The tiny student, exported as recipes/mini exports it."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import ROOT
from unime.export.stage import ExportRecipe, export_embedder
from unime.models.embedder import Embedder
from unime.models.model_config import ModelConfig

STUDENT = ModelConfig(
    id=str(ROOT / "assets/student"),
    dtype="float32",
    min_pixels=4096,
    max_pixels=4096,
    max_length=256,
)


def export_student(folder: Path, **options: object) -> Path:
    """Write the export into a new folder and return it."""
    folder.mkdir(parents=True)
    recipe = ExportRecipe.model_validate({"output": "unused", "model": STUDENT, **options})
    export_embedder(Embedder.load(STUDENT, "cpu"), folder, recipe)
    return folder
