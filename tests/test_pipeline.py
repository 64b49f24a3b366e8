"""Every family passes through every stage, one after the other, as a user would run them."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image, ImageDraw

from tests.families import FAMILIES, build_family
from unime.core import files
from unime.core.stage import execute, stages
from unime.data.tables import read_table

COLOURS = ("red", "green", "blue", "yellow", "white", "purple")
SHAPES = ("circle", "square", "bar", "corner")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 24 drawings with captions, and one caption without its picture."""
    root = tmp_path_factory.mktemp("pictures")
    lines = []
    for colour, shape in itertools.product(COLOURS, SHAPES):
        image = Image.new("RGB", (32, 32), "black")
        draw = ImageDraw.Draw(image)
        box = {
            "circle": None,
            "square": (8, 8, 24, 24),
            "bar": (2, 13, 30, 19),
            "corner": (0, 0, 16, 16),
        }
        if box[shape] is None:
            draw.ellipse((6, 6, 26, 26), fill=colour)
        else:
            draw.rectangle(box[shape], fill=colour)
        image.save(root / f"{colour}_{shape}.png")
        lines.append({"image": f"{colour}_{shape}.png", "caption": f"a {colour} {shape}"})
    lines.append({"image": "missing.png", "caption": "a missing picture"})
    (root / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return root


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {word: n for n, word in enumerate(["?", "a", *COLOURS, *SHAPES])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    weights = np.random.default_rng(0).standard_normal((len(vocabulary), 16)).astype(np.float32)
    folder = tmp_path_factory.mktemp("teacher")
    SentenceTransformer(
        modules=[StaticEmbedding(tokenizer, embedding_weights=weights)], device="cpu"
    ).save(str(folder))
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_passes_through_all_stages(
    family: str, pictures: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    build_family(family, tmp_path / "base")
    prepare = {"dtype": "float32", "min_pixels": 784, "max_pixels": 3136, "max_length": 512}
    training = {"per_device_train_batch_size": 4, "max_steps": 2, "learning_rate": 1e-3}
    source = {"reader": "folder", "path": "captions.jsonl"}
    recipes = {
        "data": {
            "root": str(pictures), "dev_count": 2, "max_reject_share": 0.1,
            "sources": [
                {**source, "direction": "i2t", "task": "i2t", "query_instruction": "Find the caption"},
                {**source, "direction": "t2i", "task": "t2i", "target_instruction": "Represent it"},
            ],
        },
        "distill": {
            "model": {**prepare, "id": "base"}, "teacher": {"id": str(teacher)}, "data": "data",
            "held_out": 6, "training": training,
        },
        "warmup": {"stage": "contrast", "model": {**prepare, "id": "distill/model"}, "data": "data", "training": training},
        "mine": {"model": {**prepare, "id": "warmup/model"}, "data": "data", "candidates": 8},
        "judge": {
            "data": "data", "mined": "mine", "engine": "transformers",
            "engines": {"transformers": {"min_answer_mass": 0.0, "model": {**prepare, "id": "base"}}},
        },
        "select": {"mined": "mine", "judged": "judge", "negatives": 3, "rule": "either"},
        "contrast": {
            "model": {**prepare, "id": "warmup/model"}, "data": "data", "rows": "select", "negatives": 2,
            "losses": [{"name": "info_nce"}, {"name": "soft_label", "weight": 0.5}], "training": training,
        },
        "export": {"model": {**prepare, "id": "contrast/model"}},
        "eval": {
            "models": [{"name": "trained", "model": {**prepare, "id": "contrast/model"}}],
            "benchmarks": [{"name": "captions", "root": str(pictures), "files": "captions.jsonl"}],
        },
    }  # fmt: skip
    # The evaluation's captions file must be whole; the training's may hold a bad row.
    whole = [
        x for x in (pictures / "captions.jsonl").read_text().splitlines() if "missing" not in x
    ]
    (pictures / "test.jsonl").write_text("\n".join(whole) + "\n")
    recipes["eval"]["benchmarks"][0]["files"] = "test.jsonl"
    modules = {name: entry.module for name, entry in stages().items()}
    for name, recipe in recipes.items():
        values = {"stage": name, **recipe, "output": name}
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(values))
        execute(modules[values["stage"]], path)

    rejected = [json.loads(x) for x in (tmp_path / "data/rejected.jsonl").read_text().splitlines()]
    assert {(row["row"], "missing" in row["reason"]) for row in rejected} == {(24, True)}
    judged = read_table("judge/judged.parquet")
    assert len(judged) == len(read_table("mine/mined.parquet")) > 0
    assert np.isfinite(judged["positive_score"].to_numpy()).all()
    (row,) = files.read_json("eval/results.json")["rows"]
    recalls = row["retrieval"]["captions"]
    assert all(0 <= v <= 100 for task in recalls.values() for v in task.values())
    assert (tmp_path / "export/embedder/modules.json").is_file()
