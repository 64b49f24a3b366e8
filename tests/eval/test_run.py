"""The run end to end: rows, what a score must not reward, resuming, incomplete sets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from research.world.build import TASKS
from tests.eval.small import (
    CATEGORIES,
    COLOURS,
    Broken,
    Constant,
    Hashed,
    embed,
    recipe,
    write_world,
)
from tests.families import FAMILIES, build_family
from unime.core import files
from unime.core.errors import DataError, ModelError, OutputError, RecipeError
from unime.core.stage import execute
from unime.eval import encode
from unime.eval import stage as eval_run
from unime.eval.benchmark import known_benchmarks, load_benchmark
from unime.eval.commands import app
from unime.eval.encoders.registry import ModelEntry
from unime.eval.inspect_benchmarks import all_benchmarks, one_benchmark
from unime.eval.runners.candidates import CandidateLists
from unime.eval.similarity import Vectors


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def encoders(monkeypatch):
    """Give every model of a recipe an encoder by its name; return them."""
    given = {"first": Hashed("first"), "second": Hashed("second"), "constant": Constant()}
    monkeypatch.setattr(
        encode, "load_encoder", lambda entry, device=None: given[entry.source.split("/")[-1]]
    )
    return given


def evaluate(values: dict, tmp_path: Path) -> dict:
    path = tmp_path / "9_eval.yaml"
    path.write_text(yaml.safe_dump(values))
    execute("unime.eval.stage", path)
    return files.read_json(values["results"])


def test_rows_hold_the_means_of_the_score_files(world, tmp_path, encoders, capsys):
    values = recipe(world, tmp_path / "out", ["second", "first"])
    rows = evaluate(values, tmp_path)["rows"]
    assert [row["name"] for row in rows] == ["second", "first"]
    for row in rows:
        scores = files.read_json(tmp_path / "out" / row["name"] / "scores.json")["benchmarks"]
        tasks = scores["mini_mmeb"]["tasks"]
        assert row["datasets"] == {name: facts["score"] for name, facts in tasks.items()}
        assert row["overall"] == pytest.approx(np.mean(list(row["datasets"].values())), abs=1e-3)
        assert row["ind"] == row["meta_task"]["classification"] == row["datasets"]["colour_name"]
        assert row["ood"] == row["meta_task"]["retrieval"] == row["datasets"]["colour_picture"]
        assert sorted(row["compositional"]) == sorted(CATEGORIES)
        assert "incomplete" not in row
        for name, facts in tasks.items():
            table = pq.read_table(tmp_path / "out" / row["name"] / f"mini_mmeb/{name}.parquet")
            hits = table["hit"].to_pylist()
            assert facts["score"] == pytest.approx(100 * np.mean(hits), abs=1e-3)
            assert facts["chance"] == 20.0
            assert facts["low"] <= facts["score"] <= facts["high"]
    table = capsys.readouterr().out
    assert "chance" in table and "*" not in table


def test_a_constant_model_gets_nothing(world, tmp_path, encoders):
    (row,) = evaluate(recipe(world, tmp_path / "out", ["constant"]), tmp_path)["rows"]
    assert row["overall"] == 0.0
    assert set(row["compositional"].values()) == {0.0}
    scores = files.read_json(tmp_path / "out/constant/scores.json")["benchmarks"]
    assert scores["mini_mmeb"]["tasks"]["colour_name"]["expected"] == 20.0
    assert scores["mini_compositional"]["means"]["overall"]["chance"] == 50.0


def random_lists(generator, queries=400, candidates=300, length=20):
    """Lists with one gold candidate somewhere, sometimes twice."""
    position = np.stack([generator.permutation(candidates)[:length] for _ in range(queries)])
    position[::7, 0] = position[::7, 1]
    gold_place = generator.integers(length, size=queries)
    gold = position == position[np.arange(queries), gold_place][:, None]
    return CandidateLists(
        name="random", queries=np.arange(queries), candidates=queries + np.arange(candidates),
        position=position.ravel().astype(np.int32), gold=gold.ravel(),
        offsets=np.arange(0, queries * length + 1, length),
    )  # fmt: skip


def test_a_random_model_is_at_chance_and_an_oracle_at_100(world, tmp_path):
    lists = random_lists(np.random.default_rng(0))
    total = len(lists.queries) + len(lists.candidates)
    values = np.random.default_rng(1).normal(size=(total, 16))
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    scores = lists.score(Vectors(values, "random"))
    chance = scores.chance["hit@1"]
    assert abs(scores.values.mean() - chance) < 3 * np.sqrt(chance / len(lists.queries))

    choices = eval_run.EvalRecipe(**recipe(world, tmp_path / "out")).benchmarks
    pool, groups = eval_run.read(eval_run.select(choices), 0.0)
    for task in groups[0]:
        assert isinstance(task, CandidateLists)
        # A query and everything equal to its right answer in one place, for one query at a time.
        for number, query in enumerate(task.queries):
            span = slice(task.offsets[number], task.offsets[number + 1])
            gold = task.candidates[task.position[span][task.gold[span]]]
            oracle = task.score(Vectors(embed(pool, [[query, *gold]]), "oracle"))
            assert oracle.values[number]


def test_both_ways_of_scoring_lists_agree_with_a_loop(monkeypatch):
    lists = random_lists(np.random.default_rng(2), queries=30)
    values = np.random.default_rng(3).normal(size=(330, 8))
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    vectors = Vectors(values, "m")
    arguments = (lists.queries, lists.candidates, lists.position, lists.offsets)
    dense = vectors.listed(*arguments)
    monkeypatch.setattr("unime.eval.similarity.DENSE_UP_TO", 0)
    single = vectors.listed(*arguments)
    naive = [
        values[lists.queries[i // 20]] @ values[lists.candidates[place]]
        for i, place in enumerate(lists.position)
    ]
    assert np.allclose(dense, naive, atol=1e-6) and np.allclose(single, naive, atol=1e-6)


def test_where_the_gold_candidate_stands_changes_nothing():
    lists = random_lists(np.random.default_rng(4))
    values = np.random.default_rng(5).normal(size=(700, 16))
    vectors = Vectors(values / np.linalg.norm(values, axis=1, keepdims=True), "m")
    before = lists.score(vectors)
    order = np.random.default_rng(6).permuted(np.arange(8000).reshape(400, 20), axis=1).ravel()
    moved = CandidateLists(
        name="moved", queries=lists.queries, candidates=lists.candidates,
        position=lists.position[order], offsets=lists.offsets, gold=lists.gold[order],
    )  # fmt: skip
    assert np.array_equal(moved.score(vectors).values, before.values)


def test_nan_names_the_model_and_the_input(world, tmp_path, monkeypatch):
    monkeypatch.setattr(encode, "load_encoder", lambda entry, device=None: Broken("x"))
    with pytest.raises(ModelError, match=r"model 'first': 1 of \d+ embeddings hold NaN .* the "):
        evaluate(recipe(world, tmp_path / "out", ["first"]), tmp_path)


def test_vectors_not_normalised_are_refused():
    with pytest.raises(ModelError, match="not L2-normalised .* length 2"):
        Vectors(2 * np.eye(3), "m")


class Killed(BaseException):
    pass


def test_killed_at_any_moment_it_resumes_to_the_same_bytes(world, tmp_path, encoders, monkeypatch):
    monkeypatch.setattr("unime.eval.encode.BLOCK", 10)

    def small_recipe(folder: Path) -> dict:
        values = recipe(world, folder / "out")
        return {**values, "benchmarks": [{**values["benchmarks"][0], "tasks": ["colour_name"]}]}

    whole = tmp_path / "whole"
    moments: list[str] = []
    monkeypatch.setattr(files, "on_commit", moments.append)
    evaluate(small_recipe(whole), whole_folder(whole))
    encoded_once = encoders["first"].encoded

    def tree(folder):
        return {
            path.relative_to(folder): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
            and path.name not in {"timing.json", "run.json", "manifest.json", "9_eval.yaml"}
        }

    for number in range(len(moments)):
        folder = whole_folder(tmp_path / f"killed{number}")
        values = small_recipe(folder)
        encoders["first"].encoded = 0
        monkeypatch.setattr(files, "on_commit", stop_at(number))
        with pytest.raises(Killed):
            evaluate(values, folder)
        monkeypatch.setattr(files, "on_commit", None)
        evaluate(values, folder)
        assert tree(folder) == tree(whole), moments[number]
        # A block that was being written is encoded again, no other.
        assert encoders["first"].encoded <= encoded_once + 10


def whole_folder(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


def stop_at(number: int):
    count = -1

    def stop(moment: str) -> None:
        nonlocal count
        count += 1
        if count == number:
            raise Killed(moment)

    return stop


def test_an_incomplete_set_is_marked_everywhere(world, tmp_path, encoders, capsys):
    values = recipe(world, tmp_path / "out", ["first"])
    values["benchmarks"][0]["tasks"] = ["colour_name"]
    values["benchmarks"][1]["limit"] = 3
    (row,) = evaluate(values, tmp_path)["rows"]
    assert row["incomplete"]["mini_mmeb"] == ["overall"]
    assert "overall" in row["incomplete"]["mini_compositional"]
    means = files.read_json(tmp_path / "out/first/scores.json")["benchmarks"]["mini_mmeb"]["means"]
    assert (means["overall"]["complete"], means["overall"]["tasks"]) == (False, 1)
    assert means["meta_task/classification"]["complete"]
    table = capsys.readouterr().out
    assert f"{row['overall']:.1f}*" in table and "incomplete set" in table


def test_everything_missing_is_listed_before_any_compute(tmp_path, monkeypatch):
    world = write_world(tmp_path / "world")
    (world / "eval/colour_picture/test.parquet").unlink()
    (world / "compositional/swap_obj.json").unlink()
    monkeypatch.setattr(encode, "load_encoder", lambda entry, device=None: pytest.fail("encoded"))
    with pytest.raises(DataError, match=r"2 files are missing:\n.*colour_picture.*\n.*swap_obj"):
        evaluate(recipe(world, tmp_path / "out"), tmp_path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"benchmarks.0.name": "mini_mmebb"}, "unknown benchmark 'mini_mmebb'; did you mean 'mini_mmeb'"),
        ({"benchmarks.0.tasks": ["colour_nam"]}, "unknown task of mini_mmeb 'colour_nam'; did you"),
        ({"models.1.name": "First"}, "each needs a name of its own, got 'first' 2 times"),
        ({"model": 1}, "model: no such key; did you mean 'models'"),
    ],
)  # fmt: skip
def test_a_recipe_mistake_is_one_clear_sentence(world, tmp_path, change, sentence):
    path = tmp_path / "9_eval.yaml"
    path.write_text(yaml.safe_dump(recipe(world, tmp_path / "out")))
    overrides = [f"{key}={json.dumps(value)}" for key, value in change.items()]
    with pytest.raises(RecipeError, match=sentence):
        execute("unime.eval.stage", path, overrides)


def test_another_recipe_into_the_same_folder_is_refused(world, tmp_path, encoders):
    values = recipe(world, tmp_path / "out", ["first"])
    evaluate(values, tmp_path)
    evaluate(values, tmp_path)
    with pytest.raises(OutputError, match="models"):
        evaluate(recipe(world, tmp_path / "out", ["second"]), tmp_path)


def test_seconds_and_memory_are_those_of_the_stage_that_made_the_model(world, tmp_path, encoders):
    made = tmp_path / "runs/6_contrast"
    (made / "model").mkdir(parents=True)
    files.write_json(made / "run.json", {"seconds": 12.5, "peak_gb": 1.5, "host": "h"})
    files.write_json(made / "manifest.json", {})
    values = recipe(world, tmp_path / "out", ["first"])
    encoders["model"] = encoders["first"]
    values["models"][0]["model"]["id"] = str(made / "model")
    (row,) = evaluate(values, tmp_path)["rows"]
    assert (row["seconds"], row["peak_gb"]) == (12.5, 1.5)


def test_check_finds_a_damaged_picture_and_a_wrong_size(tmp_path):
    world = write_world(tmp_path / "world")
    path = tmp_path / "9_eval.yaml"
    path.write_text(yaml.safe_dump(recipe(world, tmp_path / "out")))
    done = CliRunner().invoke(app, ["check", str(path)], catch_exceptions=False)
    assert f"9 tasks, 68 queries, {count_encodes(world)} distinct inputs" in done.output
    tasks = json.loads((world / "instructions.json").read_text())
    tasks["colour_name"]["queries"] = 7
    (world / "instructions.json").write_text(json.dumps(tasks))
    damaged = world / "pictures/red.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    with pytest.raises(DataError, match=r"2 problems:\n.*6 queries, published with 7\n.*red.png"):
        CliRunner().invoke(app, ["check", str(path)], catch_exceptions=False)


def count_encodes(world: Path) -> int:
    """Count by hand: what the world's files hold, each content once a side and instruction."""
    pictures, words = len(COLOURS), len(COLOURS)
    queries = 6 + 6
    targets = words + pictures
    compositional = len(COLOURS) + 2 * len(CATEGORIES) * len(COLOURS)
    return queries + targets + compositional


def test_benchmark_files_are_valid_and_mmeb_has_its_36_tasks():
    assert all(name in all_benchmarks() for name in known_benchmarks())
    text = one_benchmark("mmeb_v1")
    assert "36 tasks: 10 classification, 10 vqa, 12 retrieval, 4 grounding" in text
    assert text.partition("\npublished")[0].count(" ood ") == 16
    mini = load_benchmark("mini_compositional")
    trained = TASKS["picture_to_caption"]
    assert {t.query_instruction for t in mini.tasks.values()} == {trained.query_instruction}
    assert {t.target_instruction for t in mini.tasks.values()} == {trained.target_instruction}
    sizes = [task.queries for task in load_benchmark("sugarcrepe").tasks.values()]
    assert sum(size or 0 for size in sizes) == 7511


@pytest.mark.parametrize("family", FAMILIES)
def test_five_families_run_through_a_benchmark(family, world, tmp_path):
    model = build_family(family, tmp_path / family)
    values = recipe(world, tmp_path / "out", ["first"])
    values["models"][0]["model"] = {"id": str(model), "dtype": "float32"}
    (row,) = evaluate(values, tmp_path)["rows"]
    assert 0 <= row["overall"] <= 100
    assert len(row["compositional"]) == 7


def test_encodes_are_shared_between_tasks_and_done_once(world, tmp_path, encoders):
    choices = eval_run.EvalRecipe(**recipe(world, tmp_path / "out")).benchmarks
    pool, groups = eval_run.read(eval_run.select(choices), 1.0)
    entry = ModelEntry.model_validate({"name": "first", "model": {"id": "fake/first"}})
    encoder = encoders["first"]
    matrix = tmp_path / "pool.npy"
    values, fresh = encode.encode_pool(entry, pool, tmp_path / "cache", matrix, 64, 1)
    again, none_fresh = encode.encode_pool(entry, pool, tmp_path / "cache", matrix, 64, 1)
    assert (fresh, none_fresh) == (len(pool), 0) and np.array_equal(values, again)
    asked = sum(task.encodes_without_sharing for group in groups for task in group)
    assert encoder.encoded == len(pool) == count_encodes(world) < asked
