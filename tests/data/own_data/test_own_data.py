"""From folders nobody has seen to recipes that run, without touching code or recipe."""

from __future__ import annotations

import csv
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image, ImageDraw

from tests.conftest import ROOT
from unime.core import files
from unime.core.errors import DataError, OutputError
from unime.core.stage import execute, stage_of, stages
from unime.data import images
from unime.data.own_data.prepare import is_own_data, prepare
from unime.data.own_data.scan import CaptionedImage, leaks, near_duplicates, plain, split_pictures
from unime.stages import recipes_in

COLOURS = ("red", "green", "blue", "yellow", "purple")
SHAPES = ("circle", "square", "bar")
BACKGROUNDS = ("black", "white", "grey")
FORMS = ("csv", "jsonl", "txt", "parquet")


def draw(colour: str, shape: str, background: str) -> Image.Image:
    image = Image.new("RGB", (64, 48), background)
    pen = ImageDraw.Draw(image)
    if shape == "circle":
        pen.ellipse((16, 8, 48, 40), fill=colour)
    else:
        pen.rectangle((16, 8, 48, 40) if shape == "square" else (4, 20, 60, 28), fill=colour)
    return image


def own_folder(folder: Path, form: str) -> Path:
    """45 drawings, a copy, a scaled copy, and (where a form can say so) a missing picture."""
    (folder / "img").mkdir(parents=True)
    rows = []
    for number, names in enumerate(itertools.product(COLOURS, SHAPES, BACKGROUNDS)):
        draw(*names).save(folder / f"img/{number:03}.png")
        rows.append((f"img/{number:03}.png", f"a {names[0]} {names[1]} on {names[2]}"))
    last = draw(COLOURS[-1], SHAPES[-1], BACKGROUNDS[-1])
    last.save(folder / "img/copy.png")
    last.resize((128, 96)).save(folder / "img/larger.png")
    rows += [("img/copy.png", "once more"), ("img/larger.png", "a larger copy")]
    if form == "txt":
        for name, caption in rows:
            (folder / name).with_suffix(".txt").write_text(caption + "\n")
        return folder
    if form == "parquet":
        table = pa.table(
            {
                "image": [
                    {"bytes": (folder / name).read_bytes(), "path": None} for name, _ in rows
                ],
                "caption": [caption for _, caption in rows],
            }
        )
        pq.write_table(table, folder / "pictures.parquet")
        for name, _ in rows:
            (folder / name).unlink()
        return folder
    rows.append(("img/missing.png", "not there"))
    if form == "csv":
        with (folder / "captions.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["image", "caption"])
            writer.writerows(rows)
    else:
        lines = [json.dumps({"file_name": name, "text": [c, f"{c}, drawn"]}) for name, c in rows]
        (folder / "my_list.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(autouse=True)
def _other_working_directory():
    """A process has one working directory, and remembers where relative roots lead."""
    images._real.cache_clear()


@pytest.mark.parametrize("form", FORMS)
def test_every_form_becomes_a_recipe(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = own_folder(tmp_path / "Holiday Pictures", form)
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    recipe = prepare(str(folder), model=str(ROOT / "assets/student"), echo=said.append)
    assert recipe == Path("recipes/holiday_pictures")
    assert said[-1].endswith("Next: unime run recipes/holiday_pictures")
    facts = files.read_json("runs/holiday_pictures/raw/report.json")
    assert facts["rejected"] == ({"missing image": 1} if form in ("csv", "jsonl") else {})
    assert (facts["pictures"], facts["duplicate_pictures"]) == (46, 1)
    assert facts["near_duplicate_pairs"] >= 1
    assert facts["train"] + facts["test"] == 46 and 3 <= facts["test"] <= 7
    assert facts["shared_by_train_and_test"] == {
        "near_duplicates": 0, "captions": 0, "generic_captions": 0
    }  # fmt: skip
    modules = {name: entry.module for name, entry in stages().items()}
    described: list[str] = []
    for path in recipes_in(recipe):
        execute(modules[stage_of(path)], path, dry_run=True, echo=described.append)
    assert len(described) == 7
    execute("unime.data.stage", recipe / "0_data.yaml")
    manifest = files.read_json("runs/holiday_pictures/0_data/manifest.json")["facts"]
    assert manifest["rejected"] == {}
    with pytest.raises(DataError, match="are there already; run it with `unime run"):
        prepare(str(folder), echo=said.append)


def test_a_folder_whose_name_is_not_utf8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    own_folder(tmp_path / "own", "csv").rename(os.fsdecode(b"caf\xe9"))
    said: list[str] = []
    recipe = prepare(os.fsdecode(b"caf\xe9"), model=str(ROOT / "assets/student"), echo=said.append)
    assert said[0].startswith(
        "caf\\udce9: 48 rows read = 46 accepted + 1 rejected + 1 merged copies"
    )
    assert files.read_json("runs/caf/raw/report.json")["place"] == "caf\udce9"
    execute("unime.data.stage", recipe / "0_data.yaml")
    assert files.read_json("runs/caf/0_data/manifest.json")["facts"]["rejected"] == {}


def test_data_that_changed_since_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    folder = own_folder(tmp_path / "own", "txt")
    prepare(str(folder), model=str(ROOT / "assets/student"), echo=lambda _: None)
    caption = folder / "img/000.txt"
    caption.write_text(caption.read_text().replace("red", "RED"))  # of equal length
    with pytest.raises(DataError, match="are there already, and .*own has changed since; run it"):
        prepare(str(folder), model=str(ROOT / "assets/student"), echo=lambda _: None)


def test_a_corrected_caption_of_equal_length_is_another_input(tmp_path: Path):
    folder = own_folder(tmp_path / "own", "txt")
    recipe = tmp_path / "data.yaml"
    source = {"reader": "folder", "path": "."}
    files.write_text(
        recipe,
        yaml.safe_dump(
            {
                "stage": "data",
                "root": str(folder),
                "sources": [source],
                "output": str(tmp_path / "out"),
            }
        ),
    )
    execute("unime.data.stage", recipe)
    execute("unime.data.stage", recipe)  # up to date
    caption = folder / "img/000.txt"
    caption.write_text(caption.read_text().replace("red", "RED"))
    with pytest.raises(OutputError, match="holds a finished output"):
        execute("unime.data.stage", recipe)


def test_too_little_data_says_what_was_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "few"
    folder.mkdir()
    (folder / "captions.csv").write_text("image,caption\nmissing.png,nothing\n")
    with pytest.raises(
        DataError, match="has 0 usable captioned pictures, expected at least 12; 1 were"
    ):
        prepare(str(folder))
    with pytest.raises(DataError, match="is neither a folder nor a file, nor hub:OWNER/NAME"):
        prepare(str(tmp_path / "nowhere"))


def picture(number: int, seed: int, *captions: str) -> CaptionedImage:
    rng = np.random.default_rng(seed)
    return CaptionedImage(
        f"{number}.png", number.to_bytes(16, "little"), 10, 10, captions or (f"number {number}",),
        int(rng.integers(0, 2**63)), rng.integers(0, 256, 192, dtype=np.uint8).tobytes(),
    )  # fmt: skip


def test_near_duplicates_are_those_alike_in_outline_and_colour():
    one, other = picture(0, 0), picture(1, 1)
    flipped = one._replace(gradient=one.gradient ^ 0b10110, hash=bytes(16))
    faded = bytes(255 - value for value in one.colours)
    found = near_duplicates([one, other, flipped, one._replace(colours=faded)])
    assert found.tolist() == [[0, 2]]


def test_the_split_follows_content_not_order_and_keeps_groups_together():
    pictures = [picture(n, n) for n in range(100)]
    pictures += [picture(100 + n, n) for n in range(20)]  # look like the first twenty
    pictures += [picture(200, 500, "A dog!"), picture(201, 501, "a  dog"), picture(202, 502, "cat")]
    split = split_pictures(pictures, 0.2)
    assert 15 <= split.test.sum() <= 25
    assert (split.test[:20] == split.test[100:120]).all()
    assert split.test[120] == split.test[121]
    assert leaks(pictures, split) == {"near_duplicates": 0, "captions": 0, "generic_captions": 0}
    order = np.random.default_rng(0).permutation(len(pictures))
    again = split_pictures([pictures[i] for i in order], 0.2)
    assert (again.test == split.test[order]).all()


def test_a_caption_of_everything_holds_nothing_together():
    pictures = [picture(n, n, "a photo", f"number {n}") for n in range(60)]
    split = split_pictures(pictures, 0.2)
    assert split.generic == ["a photo"]
    assert split.test.sum() == 12
    assert leaks(pictures, split)["generic_captions"] == 1


def test_captions_are_compared_without_case_and_punctuation():
    assert plain("A  Dog, on the\tbeach!") == "a dog on the beach"
    assert plain("\u6d77\u8fb9") == "\u6d77\u8fb9"
    assert plain("?!") == "?!"


@pytest.mark.parametrize(("hidden", "dims"), [(128, [64, 32]), (129, [128, 64]), (32, [16, 8])])
def test_short_vectors_are_shorter_than_the_models_own(hidden, dims, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model/model.safetensors").write_bytes(b"few")
    files.write_json(tmp_path / "model/config.json", {"text_config": {"hidden_size": hidden}})
    recipe = prepare(str(own_folder(tmp_path / "own", "csv")), model="model", echo=lambda _: None)
    warmup = yaml.safe_load((recipe / "2_warmup.yaml").read_text())
    assert warmup["losses"][0]["matryoshka_dims"] == dims


def test_what_is_data_and_what_is_a_recipe():
    assert is_own_data("photos/") and is_own_data("a.csv") and is_own_data("hub:me/photos")
    assert not is_own_data("recipes/mini/0_data.yaml")


@pytest.mark.slow
@pytest.mark.parametrize("form", ["csv", "jsonl", "txt"])
def test_two_commands_give_a_trained_evaluated_exported_model(form: str, tmp_path: Path):
    folder = own_folder(tmp_path / "own", form)
    env = {"PYTHONPATH": str(ROOT), "PATH": "", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    student = str(ROOT / "assets/student")
    for words in (
        ["data", str(folder), "--model", student],
        [
            "run",
            "recipes/own",
            "2_warmup.training.max_steps=20",
            "6_contrast.training.max_steps=10",
        ],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "unime", *words],
            cwd=tmp_path, capture_output=True, text=True, check=False, env=env,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
    rows = files.read_json(tmp_path / "runs/own/results.json")["rows"]
    assert [row["name"] for row in rows] == ["base", "after warm-up", "stage 2"]
    export = tmp_path / "runs/own/8_export/embedder"
    assert (export / "short_vectors.safetensors").is_file()
    assert files.read_json(export / "config.json")["matryoshka_dimensions"] == [128, 64, 256]
    assert yaml.safe_load((export / "README.md").read_text().split("---")[1])["library_name"]
