"""What a model's image processor does not take is found before any compute, and named at run time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from tests.eval.small import recipe as eval_recipe
from tests.eval.small import write_world
from tests.families import build_family
from unime.core.errors import DataError
from unime.core.stage import execute
from unime.data.image_processor import PictureError, refusal
from unime.data.pixels import SOURCE
from unime.eval.inspect_benchmarks import check_recipe
from unime.models.embedder import Embedder
from unime.models.inputs import ModelInput
from unime.rerank import Reranker

SIZES = [
    (1, 1),
    (64, 48),
    (1, 199),
    (201, 1),
    (900, 3),
    (3, 900),
    (2000, 1),
    (20000, 90),
    (4000, 3000),
]
TAKEN = "absolute aspect ratio must be smaller than 200, got 300.0"


@pytest.mark.parametrize("size", SIZES)
def test_asking_agrees_with_preparing(embedder: Embedder, size: tuple[int, int]):
    """Five families: what is asked of sizes alone is what happens to pictures."""
    reason = refusal(embedder.processor.image_processor, size)
    encode = ModelInput("", Image.new("RGB", size, "red"), "target", "")
    if reason is None:
        embedder.features([encode])
    else:
        with pytest.raises(PictureError, match=r"cannot be used by this model"):
            embedder.features([encode])


def test_a_processor_that_cannot_be_asked_is_shown_a_small_picture():
    shown: list[tuple[int, int]] = []

    class Processor:
        def __call__(self, images: list[Image.Image], return_tensors: str) -> None:
            shown.append(images[0].size)
            if images[0].width < 28:
                raise RuntimeError("too narrow\nand more")

    assert refusal(Processor(), (8000, 6000)) is None
    assert refusal(Processor(), (20, 30)) == "too narrow"
    assert shown == [(85, 64), (20, 30)]


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_family("qwen2_vl", tmp_path_factory.mktemp("qwen2_vl"))


def test_an_error_names_the_input(load: Callable[..., Embedder]):
    wide = Image.new("RGB", (900, 3))
    inputs = [ModelInput("a"), ModelInput("", Image.new("RGB", (40, 30))), ModelInput("b", wide)]
    with pytest.raises(DataError, match=rf"of input 2 \(900 x 3 pixels\) .*: {TAKEN}; leave it"):
        load("qwen2_vl").encode(inputs)
    wide.info[SOURCE] = "scans/a.png"
    with pytest.raises(DataError, match=r"the picture scans/a\.png \(900 x 3 pixels\) cannot"):
        load("qwen2_vl").encode(inputs)


def test_a_reranker_names_the_file(qwen: Path, tmp_path: Path):
    Image.new("RGB", (900, 3)).save(tmp_path / "wide.png")
    with pytest.raises(DataError, match=r"wide\.png \(900 x 3 pixels\) cannot be used"):
        Reranker.load(str(qwen), "cpu").rank("a", [tmp_path / "wide.png", "b"])


PIXELS = {"dtype": "float32", "max_pixels": 3136, "min_pixels": 784}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Captioned pictures, one of them 900 x 3."""
    (tmp_path / "raw").mkdir()
    lines = []
    for number in range(12):
        size = (900, 3) if number == 4 else (28 + number, 28)
        Image.new("RGB", size, (20 * number, 10, 10)).save(tmp_path / f"raw/{number}.png")
        lines.append(json.dumps({"image": f"{number}.png", "caption": f"caption {number}"}))
    (tmp_path / "raw/captions.jsonl").write_text("\n".join(lines))
    return tmp_path


def run(folder: Path, module: str, stage: str, **values: Any) -> Path:
    path = folder / f"{stage}.yaml"
    output = folder / stage
    path.write_text(yaml.safe_dump({"stage": stage, "output": str(output), **values}))
    execute(module, path)
    return output


def data(folder: Path, **values: Any) -> Path:
    sources = [{"reader": "folder", "path": "captions.jsonl", "task": "own"}]
    return run(
        folder, "unime.data.stage", "data", root=str(folder / "raw"), sources=sources, dev_count=2,
        max_reject_share=0.2, **values,
    )  # fmt: skip


def test_the_data_stage_rejects_it_for_a_model(folder: Path, qwen: Path):
    output = data(folder, model={"id": str(qwen), **PIXELS})
    (line,) = (output / "rejected.jsonl").read_text().splitlines()
    assert json.loads(line)["reason"] == (
        f"refused by the model: query: '4.png' has 900 x 3 pixels: {TAKEN}"
    )
    # What passes is taken by the next stage.
    run(
        folder, "unime.mine.stage", "mine", data=str(output), model={"id": str(qwen), **PIXELS},
        candidates=2,
    )  # fmt: skip


@pytest.mark.parametrize("stage", ["mine", "contrast", "rerank", "score"])
def test_a_stage_with_a_model_refuses_the_data_first(
    folder: Path, qwen: Path, stage: str, monkeypatch: pytest.MonkeyPatch
):
    output = data(folder)
    model = {"id": str(qwen), **PIXELS}
    training = {"per_device_train_batch_size": 4, "max_steps": 1}
    names = {"score": ("unime.judge.stage", "judge"), "mine": ("unime.mine.stage", "mine")}
    module, name = names.get(stage, (f"unime.train.{stage}", stage))
    values: dict[str, Any] = {"data": str(output), "model": model}
    if stage == "contrast":
        values |= {"training": training, "losses": [{"name": "info_nce"}]}
    if stage == "rerank":
        module = "unime.rerank.stage"
        values |= {"training": training, "ask": {"hard": 0, "drawn": 2}}
    if stage == "score":
        import pyarrow as pa

        from unime.data.tables import MINED, write_table

        mined = {"pair": [0], "candidates": [[1]], "similarities": [[0.5]],
                 "positive_similarity": [0.5], "positive_rank": [1]}  # fmt: skip
        arrays = [pa.array(mined[field.name]).cast(field.type) for field in MINED]
        table = pa.Table.from_arrays(arrays, schema=MINED)
        (folder / "mined").mkdir()
        write_table(folder / "mined/mined.parquet", table)
        (folder / "mined/manifest.json").write_text("{}")
        engines = {"transformers": {"model": model}}
        values = {"data": str(output), "mined": str(folder / "mined"), "engine": "transformers",
                  "engines": engines, "store": str(folder / "store")}  # fmt: skip
    else:
        monkeypatch.setattr(Embedder, "load", lambda *_: pytest.fail("the weights were loaded"))
    with pytest.raises(DataError, match=r"1 pictures of .*4\.png \(900 x 3\): absolute aspect"):
        run(folder, module, name, **values)
    (line,) = (folder / name / "unusable.jsonl").read_text().splitlines()
    assert json.loads(line) == {
        "item": json.loads(line)["item"], "image": "4.png", "width": 900, "height": 3, "reason": TAKEN,
    }  # fmt: skip


def test_an_evaluation_is_refused_by_check_and_by_run(tmp_path: Path, qwen: Path):
    root = write_world(tmp_path / "world")
    Image.new("RGB", (900, 3)).save(root / "pictures/red.png")
    values = eval_recipe(root, tmp_path / "out", ["first"])
    values["models"] = [{"name": "first", "model": {"id": str(qwen), **PIXELS}}]
    path = tmp_path / "eval.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(
        DataError, match=rf"red\.png \(900 x 3 pixels\) cannot be used by first: {TAKEN}"
    ):
        check_recipe(path, [])
    with pytest.raises(DataError, match=r"1 pictures cannot be used, all are listed in .*red\.png"):
        execute("unime.eval.stage", path)
    assert "red.png" in (tmp_path / "out/unusable.txt").read_text()
