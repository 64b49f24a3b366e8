"""What stock sentence-transformers sees of the picture files that people have, measured and said."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image, ImageOps
from sentence_transformers import SentenceTransformer

from tests.export.test_export import exported
from unime import files
from unime.models.exported import load_exported
from unime.verify import SEAL, pictures_report, verify_folder
from unime.verify.kinds import ours, write_kinds


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported("qwen2_vl", tmp_path_factory.mktemp("export"))


def test_the_card_lists_the_kinds_that_differ(folder: Path):
    found = files.read_json(folder / "unime.json")["pictures"]
    assert min(found["RGB"].values()) > 0.9999
    assert found["transparent (alpha)"]["path"] < 0.999 < found["transparent (alpha)"]["PIL"]
    assert found["turned by EXIF"]["PIL"] < 0.999 < found["turned by EXIF"]["path"]
    deep = found["16-bit grey"]
    assert max(deep.values()) < 0.999
    card = (folder / "README.md").read_text()
    assert f"| 16-bit grey | {deep['path']:.4f} | {deep['PIL']:.4f} |\n" in card
    assert "| RGB |" not in card
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
