"""What stock sentence-transformers sees of the picture files that people have, measured and said."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from PIL import Image, ImageOps
from sentence_transformers import SentenceTransformer

from tests.conftest import ROOT
from unime.core import files
from unime.core.stage import execute
from unime.export.image_kinds import SAME, ours, write_kinds
from unime.export.verify import SEAL, pictures_report, verify_folder
from unime.models.exported import load_exported


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped student, exported: one with random weights may see no difference at all."""
    top = tmp_path_factory.mktemp("export")
    model = {
        "id": str(ROOT / "assets/student"), "dtype": "float32",
        "min_pixels": 4096, "max_pixels": 9216, "max_length": 256,
    }  # fmt: skip
    recipe = {"stage": "export", "model": model, "title": "kinds", "output": str(top / "out")}
    (top / "export.yaml").write_text(yaml.safe_dump(recipe))
    execute("unime.export.stage", top / "export.yaml")
    return top / "out/embedder"


def test_the_card_lists_the_kinds_that_differ(folder: Path):
    found = files.read_json(folder / "unime.json")["pictures"]
    assert min(found["RGB"].values()) > 0.9999
    # Which kinds, and which way, depends on the versions of the libraries.
    card = (folder / "README.md").read_text()
    for kind, ways in found.items():
        differs = any(isinstance(value, str) or value < SAME for value in ways.values())
        assert (f"\n| {kind} |" in card) == differs, (kind, ways)
    deep = found["16-bit grey"]
    assert max(deep.values()) < SAME
    assert f"| 16-bit grey | {deep['path']:.4f} | {deep['PIL']:.4f} |\n" in card
    assert "ImageOps.exif_transpose(Image.open(" in card


def test_what_the_card_advises_gives_the_embedding_of_training(folder: Path, tmp_path: Path):
    stock = SentenceTransformer(str(folder), device="cpu")
    kinds = write_kinds(tmp_path)
    expected = ours(load_exported(folder, "cpu"), kinds)
    for kind, path in kinds.items():
        image = ImageOps.exif_transpose(Image.open(path))
        if kind == "16-bit grey":
            image = image.convert("I").point(lambda v: v / 257).convert("L")
        if kind == "float TIFF":
            image = image.point(lambda v: v * 255).convert("L")
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        vector = stock.encode([{"image": image}], prompt_name="document")[0]
        assert vector @ expected[kind] > 0.9999, kind


def test_verify_prints_them_and_passes(folder: Path):
    report = verify_folder(folder)
    assert "the file checks passed" in report.splitlines()[-1]
    sealed = files.read_json(folder / SEAL)["pictures"]
    here = files.read_json(folder / "unime.json")["pictures"]
    for kind, ways in here.items():
        for way, value in ways.items():
            if isinstance(value, float):
                assert sealed[kind][way] == pytest.approx(value, abs=2e-3), kind
    lines = pictures_report(folder).splitlines()
    assert len(lines) == len(sealed) + 3
    deep = sealed["16-bit grey"]
    assert f"    {deep['path']:.4f}    {deep['PIL']:.4f}  16-bit grey" in lines
