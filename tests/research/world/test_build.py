"""The built world, through the ordinary readers: layouts, truth, planted false negatives."""

import json
import shutil
from collections import defaultdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from research.world import build
from research.world.layout import write_truth
from research.world.truth import TRUTH, WorldTruth, from_json, relevant, to_json
from tests.narrow import narrow
from unime.core.provenance import open_output
from unime.data.items import content_id
from unime.data.readers import DataSource, ResolvedSource, read, read_eval
from unime.data.readers.instructions import Instructions, known_tasks
from unime.data.tables import read_table

SMALL: dict[str, Any] = {
    "train_pairs": 120,
    "queries": 24,
    "candidates": 20,
    "compositional": 10,
    "workers": 1,
}


def make(folder, **changes):
    recipe = build.WorldRecipe(output=str(folder), **(SMALL | changes))
    out = open_output(recipe, build.inputs(recipe))
    build.run(recipe, out)
    out.finish()
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make(tmp_path_factory.mktemp("world") / "0_world")


def identity(root, item):
    image = (root / item.image).read_bytes() if item.image else None
    return content_id(item.text, image)


def training(root, task):
    path = root / "train" / task / "train.parquet"
    source = DataSource(reader="mmeb_train", path=str(path))
    job = ResolvedSource(source, root, path, task, "", Instructions(known_tasks([root])))
    rows = list(read(job))
    assert not [row.error for row in rows if row.error]
    assert not job.instructions.unsplit
    return [pair for row in rows for pair in row.pairs]


def files_of(root):
    return {
        path.relative_to(root): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.name not in ("run.json", "manifest.json")
    }


def test_two_builds_are_identical_and_a_killed_one_resumes(world, tmp_path, monkeypatch):
    finished = []
    whole = build.build_part

    def killed(part, recipe, folder):
        if len(finished) == 20:
            raise KeyboardInterrupt
        finished.append(part)
        return whole(part, recipe, folder)

    monkeypatch.setattr(build, "build_part", killed)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "again")
    monkeypatch.setattr(build, "build_part", whole)
    again = make(tmp_path / "again")
    assert files_of(again) == files_of(world)


def test_truth_with_narrow_strings_is_read_and_joined(world, tmp_path):
    """As older versions wrote it: a whole one, and one part of a build that was killed."""
    truth = world / "truth.parquet"
    assert read_table(truth).schema.equals(TRUTH)
    for part in ("old", "new"):
        (tmp_path / part).mkdir()
        for name in ("truth.parquet", "planted.parquet"):
            shutil.copy(world / name, tmp_path / part)
    narrow(tmp_path / "old/truth.parquet")
    old, new = (WorldTruth.load(tmp_path / part) for part in ("old", "new"))
    row = read_table(truth).slice(0, 1).to_pylist()[0]
    where = row["task"], row["content_id"]
    assert old.meaning(*where) == new.meaning(*where) == from_json(row["meaning"])
    write_truth(tmp_path, [tmp_path / "old", tmp_path / "new"])
    joined = read_table(tmp_path / "truth.parquet")
    assert joined.equals(pa.concat_tables([read_table(truth)] * 2))


def test_another_seed_is_another_world(world, tmp_path):
    recipe = build.WorldRecipe(output=str(tmp_path), seed=1, **SMALL)
    build.build_part(build.WorldPart("eval", "shapes"), recipe, tmp_path)
    name = "eval/shapes/test.parquet"
    assert (tmp_path / name).read_bytes() != (world / name).read_bytes()


def test_the_shape_of_the_benchmark(world):
    facts = json.loads((world / "instructions.json").read_text())
    metas = defaultdict(list)
    for task, known in facts.items():
        metas[known["meta_task"]].append(task)
        assert (world / "train" / task).is_dir() == (known["split"] == "ind")
    counts = {meta: len(tasks) for meta, tasks in metas.items()}
    assert counts["classification"] >= 3 and counts["vqa"] >= 3
    assert counts["retrieval"] >= 4 and counts["grounding"] >= 2
    assert {known["split"] for known in facts.values()} == {"ind", "ood"}


@pytest.mark.parametrize("task", list(build.TASKS))
def test_evaluation_lists_hold_one_right_answer(world, task):
    truth = WorldTruth.load(world)
    queries = list(read_eval(world / "eval" / task, root=world))
    assert len(queries) == SMALL["queries"]
    for query in queries:
        ids = [identity(world, candidate) for candidate in query.candidates]
        assert len(set(ids)) == len(ids)
        fits = truth.relevant(task, identity(world, query.query), ids)
        assert np.flatnonzero(fits).tolist() == [0]
        assert query.kinds[0] == "gold" and "gold" not in query.kinds[1:]
        if task in ("edits", "pointing", "pointing_held"):
            assert {"query_picture", "unedited_twin"} <= set(query.kinds)


@pytest.mark.parametrize("task", [name for name, task in build.TASKS.items() if task.trained])
def test_training_has_the_planted_false_negatives_and_no_others(world, task):
    truth = WorldTruth.load(world)
    pairs = training(world, task)
    assert len(pairs) == SMALL["train_pairs"]
    corpus = {identity(world, pair.positives[0]) for pair in pairs}
    queries = {identity(world, pair.query) for pair in pairs}
    affected = 0
    for query in queries:
        planted = set(truth.planted(task, query))
        right = {c for c in corpus if relevant(truth.meaning(task, query), truth.meaning(task, c))}
        own = {identity(world, p.positives[0]) for p in pairs if identity(world, p.query) == query}
        assert own <= right
        assert right - own == planted - own
        affected += bool(planted)
    if task != "sprites":  # names of sprites have no synonym
        assert 0.12 <= affected / len(queries) <= 0.25


def test_the_rate_may_be_nothing_or_much(tmp_path):
    for rate in (0.0, 0.4):
        recipe = build.WorldRecipe(output=str(tmp_path), **SMALL, false_negative_rate=rate)
        folder = tmp_path / str(rate)
        build.build_part(build.WorldPart("train", "caption_to_picture"), recipe, folder)
        planted = pq.read_table(folder / "parts/train/caption_to_picture/planted.parquet")
        share = len(set(planted["query"].to_pylist())) / SMALL["train_pairs"]
        assert abs(share - rate) < 0.05


def test_training_and_evaluation_share_no_picture(world):
    def pictures(split):
        return {path.read_bytes() for path in (world / "images" / split).rglob("*.png")}

    # A crop may show the same thing; whole pictures never coincide.
    train, evaluation = pictures("train"), pictures("eval")
    crops = {path.read_bytes() for path in (world / "images").glob("*/pointing*/*.png")}
    assert not (train - crops) & (evaluation - crops)


def test_compositional_files_are_sugarcrepe(world):
    for name in build.compositional.CATEGORIES:
        items = json.loads((world / "compositional" / f"{name}.json").read_text())
        assert len(items) == SMALL["compositional"]
        for item in items.values():
            assert set(item) == {"filename", "caption", "negative_caption"}
            assert (world / item["filename"]).is_file()


def test_meanings_survive_json(world):
    meanings = pq.read_table(world / "truth.parquet")["meaning"].to_pylist()
    for text in meanings[::37]:
        assert to_json(from_json(text)) == text
