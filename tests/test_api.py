"""`from unime import ...`: plain values in, the same stages, the same outputs, one clear error."""

from __future__ import annotations

import ast
import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
import yaml
from PIL import Image, ImageDraw

import unime
from tests.conftest import ROOT
from tests.families import build_family
from tests.judge.misbehaving import MODEL, Server, probability
from unime.api import options
from unime.api.results import JudgedCandidates, MinedNegatives, TrainedModel
from unime.core import files
from unime.core.config import ModelConfig
from unime.core.errors import DataError, ModelError, OutputError, RecipeError, UnimeError
from unime.core.stage import execute
from unime.data.images import load_file
from unime.data.own_data.recipe import _DATA
from unime.data.readers import Source
from unime.data.stage import DataRecipe
from unime.data.tables import DataFolder, read_table
from unime.eval.stage import EvalRecipe
from unime.export.stage import ExportRecipe
from unime.judge.engine import EngineError
from unime.judge.judge import Judge
from unime.judge.stage import ScoreRecipe
from unime.mine.stage import MineRecipe
from unime.models.embedder import Embedder
from unime.models.model_folder import ModelSettings, model_section
from unime.models.rendering import Encode
from unime.rerank.reranker import Reranker
from unime.rerank.stage import RerankRecipe
from unime.select.stage import SelectRecipe
from unime.train.contrast import ContrastRecipe
from unime.train.settings import TrainingSection

COLOURS = ("red", "green", "blue", "yellow", "white", "purple", "orange", "pink")
SETTINGS: dict[str, Any] = {
    "dtype": "float32", "min_pixels": 784, "max_pixels": 3136, "max_length": 512,
}  # fmt: skip
SHORT: dict[str, Any] = {"max_steps": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-3}


def picture(colour: str, size: int = 32) -> Image.Image:
    image = Image.new("RGB", (size, size), colour)
    ImageDraw.Draw(image).rectangle((4, 4, 12, 12), fill="black")
    return image


def pairs() -> list[dict[str, Any]]:
    """Rows with images in memory, columns in no order, negatives and scores."""
    images = [picture(colour) for colour in COLOURS]
    return [
        {
            "positive": images[n],
            "query": f"a {colour} picture",
            "negatives": [images[n - 1], {"text": "none", "image": images[n - 2]}],
            "scores": [0.9, 0.1, None],
        }
        for n, colour in enumerate(COLOURS)
    ]


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("base") / "qwen"
    return {"id": str(build_family("qwen2_vl", folder)), **SETTINGS}


@pytest.fixture(scope="module")
def run(base: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every stage once, each on what the one before returned."""
    out = tmp_path_factory.mktemp("run")
    data = unime.load_data(pairs(), out / "data", dev_count=2)
    first = unime.train_embedder(data, base, out / "warmup", **SHORT)
    mined = unime.mine_negatives(data, first, out / "mined", candidates=3)
    judged = unime.judge_candidates(
        mined, base, out / "judged", engine_options={"min_answer_mass": 0.0}
    )
    rows = unime.select_negatives(judged, out / "rows", rule="relative", relative_margin=-1.0)
    trained = unime.train_embedder(
        data, first, out / "trained", rows=rows, losses=["info_nce", "soft_label"], **SHORT
    )
    reranker = unime.train_reranker(
        data, base, out / "reranker", rows=rows, retriever=trained, ask={"hard": 1}, **SHORT
    )
    unime.export_model(trained, out / "export", reranker=reranker, title="small")
    return out


def test_nothing_is_imported_before_it_is_used():
    code = (
        "import sys, unime; assert 'pydantic' not in sys.modules; assert 'Embedder' in dir(unime)\n"
        "unime.load_data, unime.train_embedder, unime.evaluate, unime.export_model\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
        "from unime import Judge; assert 'torch' not in sys.modules\n"
        "for name in unime.__all__: getattr(unime, name)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    with pytest.raises(AttributeError, match="no attribute 'embedder'"):
        _ = unime.embedder  # type: ignore[attr-defined]
    assert unime.Embedder is Embedder
    assert unime.Reranker is Reranker


@pytest.mark.parametrize(
    ("options_of", "schema", "apart"),
    [
        (ModelSettings, ModelConfig, {"id"}),
        (options.MineOptions, MineRecipe, {"data", "model"}),
        (options.SelectOptions, SelectRecipe, {"mined", "judged"}),
        (
            options.JudgeOptions,
            ScoreRecipe,
            {"data", "mined", "engine", "engines", "truth", "store"},
        ),
        (options.EvalOptions, EvalRecipe, {"models", "benchmarks"}),
        (options.ExportOptions, ExportRecipe, {"model", "reranker"}),
        (options.SourceOptions, Source, {"reader", "path", "task", "direction"}),
    ],
)
def test_options_are_the_keys_of_the_recipe(options_of: type, schema: Any, apart: set[str]):
    known = set(schema.model_fields) - {"stage", "output"} - apart
    assert set(get_type_hints(options_of)) == known


def test_options_of_data_and_training_are_the_keys_of_their_recipes():
    def own(kind: type, base: type) -> set[str]:
        return set(get_type_hints(kind)) - set(get_type_hints(base))

    training = set(TrainingSection.model_fields) | {"per_device_train_batch_size"}
    assert set(get_type_hints(options.TrainingOptions)) == training
    common = {"stage", "output", "data", "model", "rows", "losses", "tune", "training"}
    embedder = own(options.EmbedderOptions, options.TrainingOptions)
    assert embedder == set(ContrastRecipe.model_fields) - common
    reranker = own(options.RerankerOptions, options.TrainingOptions)
    assert reranker == set(RerankRecipe.model_fields) - common - {"retriever"}
    data = own(options.DataOptions, options.SourceOptions)
    assert data == set(DataRecipe.model_fields) - {"stage", "output", "root", "sources", "model"}


def test_rows_in_memory_become_tables_and_images_of_their_own(run: Path):
    data = DataFolder.open(run / "data")
    rows = list(data.rows())
    assert [row["query"] for row in rows] == [
        {"text": f"a {c} picture", "image": None} for c in COLOURS
    ]
    assert sum(row["split"] == "dev" for row in rows) == 2
    for number, row in enumerate(rows):
        (positive,) = row["positives"]
        shown = load_file(Path(str(positive["image"])))
        assert np.array_equal(np.asarray(shown), np.asarray(picture(COLOURS[number])))
    assert data.to_arrow()["scores"][0].as_py()[:2] == pytest.approx([0.9, 0.1])
    # Content-addressed: eight images, each shown up to three times, and one file of rows.
    written = [p.relative_to(run / "data") for p in (run / "data/.rows").rglob("*") if p.is_file()]
    assert sorted(p.suffix for p in written) == [".jsonl", *[".png"] * 8]
    listed = files.read_json(run / "data/manifest.json")["files"]
    assert {p.as_posix() for p in written} <= listed.keys()
    assert str(data).startswith(f"DataFolder('{data.path}': 8 pairs")


def test_results_are_read_with_their_contents(run: Path):
    mined = MinedNegatives.open(run / "mined")
    table = read_table(run / "mined/mined.parquet")
    assert mined.to_arrow().equals(table)
    assert len(mined) == 6
    row = next(mined.rows())
    pair = mined.data.pair(table["pair"][0].as_py())
    assert row["query"] == mined.data.content(pair.query)
    assert [one["similarity"] for one in row["candidates"]] == pytest.approx(
        table["similarities"][0].as_py()
    )
    assert str(mined) == repr(mined)
    assert "6 queries" in str(mined)


@pytest.mark.parametrize(
    ("stage", "module"),
    [
        ("data", "unime.data.stage"),
        ("warmup", "unime.train.contrast"),
        ("mined", "unime.mine.stage"),
        ("judged", "unime.judge.stage"),
        ("rows", "unime.select.stage"),
        ("reranker", "unime.rerank.stage"),
        ("export", "unime.export.stage"),
    ],
)
def test_an_output_is_that_of_the_recipe_with_its_values(
    stage: str, module: str, run: Path, monkeypatch: pytest.MonkeyPatch
):
    """What the API has written is up to date for the command, and a recipe makes the same again."""
    recipe = files.read_json(run / stage / "manifest.json")["recipe"]
    if stage == "judged":
        recipe["store"] = str(run / "scores")
    for output in (run / stage, Path(stage)):
        Path("recipe.yaml").write_text(yaml.safe_dump({**recipe, "output": str(output)}))
        manifest = (run / stage / "manifest.json").read_bytes()
        execute(module, "recipe.yaml")
        assert (run / stage / "manifest.json").read_bytes() == manifest
    if stage != "data":  # whose images lie in the first
        made, again = (files.read_json(p / stage / "manifest.json") for p in (run, Path()))
        assert made["facts"] == again["facts"]
        assert made["inputs"] == again["inputs"]


def test_the_same_call_is_up_to_date_and_another_is_refused(
    run: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("unime.data.stage.run", lambda *_: pytest.fail("it ran again"))
    again = unime.load_data(iter(pairs()), run / "data", dev_count=2)
    assert again == DataFolder(run / "data")
    before = {p: p.stat().st_mtime_ns for p in (run / "data").rglob("*")}
    with pytest.raises(OutputError, match=r"(?s)finished output of another recipe.*restart=True"):
        unime.load_data(pairs()[:-1], run / "data", dev_count=2)
    after = {p: p.stat().st_mtime_ns for p in (run / "data").rglob("*") if p.name != ".rows"}
    assert after == {p: t for p, t in before.items() if p.name != ".rows"}


def test_restart_moves_an_output_aside():
    unime.load_data(pairs(), "data")
    whole = list(DataFolder(Path("data")).rows())
    assert all([n["text"] for n in row["negatives"]] == ["", "none"] for row in whole)
    assert [bool(np.isnan(score)) for score in whole[0]["scores"]] == [False, False, True]
    moved = unime.load_data(pairs()[:4], "data", restart=True)
    assert len(list(moved.rows())) == 4
    assert len(list(DataFolder(Path("data.old1")).rows())) == 8


KILLED = """
import os, sys
from unime import load_data
from unime.core import files
from tests.test_api import pairs
count = 0
def stop(moment):
    global count
    count += 1
    if count == int(sys.argv[1]):
        os._exit(137)
files.on_commit = stop
load_data(pairs(), "data", dev_count=2)
"""


@pytest.mark.parametrize("number", [1, 4, 18, 20, 23])
def test_a_killed_call_is_carried_on_by_the_same_call(number: int):
    """Before any image, between images, in the rows, and with the output opened."""
    environment = {"PYTHONPATH": str(ROOT), "PATH": "", "HOME": str(Path.cwd())}
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(number)], env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 137, done.stderr
    assert not Path("data/manifest.json").exists()
    unime.load_data(pairs(), "data", dev_count=2)
    unime.load_data(pairs(), "other/data", dev_count=2)
    for name in ("items.parquet", "tasks.json"):
        whole = Path("data", name).read_bytes()
        assert name == "items.parquet" or whole == Path("other/data", name).read_bytes()
    assert not list(Path("data").rglob(".*partial*"))
    one, other = ([r["query"] for r in DataFolder.open(p).rows()] for p in ("data", "other/data"))
    assert one == other


@pytest.mark.parametrize(
    ("source", "error", "said"),
    [
        ([], DataError, "not one row"),
        ([1], DataError, "row 0: expected a dict"),
        ({"query": "x"}, DataError, "expected a path or rows"),
        ("nowhere", DataError, "nowhere is neither a folder nor a file"),
        ([{"query": "x", "positive": 3}], DataError, "row 0, 'positive': expected a text.*got int"),
        ([{"query": "x", "positive": {"img": "a"}}], DataError, "expected the keys 'text'"),
        ([{"query": "x", "positive": "y", "score": "high"}], DataError, "'score': expected a num"),
        ([{"query": "x", "positive": Path("gone.png")}], DataError, "missing image"),
        ([{"query": "x", "positive": Path("torn.png")}], DataError, "not an image"),
        ([{"query": "x"}], DataError, "missing column"),
        ([{"image": Path("whole.png"), "caption": object()}], DataError, "expected captions"),
    ],
)
def test_bad_input_is_one_clear_error(source: Any, error: type[UnimeError], said: str):
    picture("red").save("whole.png")
    Path("torn.png").write_bytes(Path("whole.png").read_bytes()[:40])
    with pytest.raises(error, match=said):
        unime.load_data(source, "data")
    assert not Path("data/manifest.json").exists()


def test_an_unreadable_image_in_memory_names_its_row():
    picture("red", 64).save("a.png")
    Path("b.png").write_bytes(Path("a.png").read_bytes()[:60])
    with Image.open("b.png") as torn, pytest.raises(DataError, match="row 1, 'positive'"):
        unime.load_data([{"query": "a", "positive": "b"}, {"query": "x", "positive": torn}], "data")


def test_a_folder_of_others_is_left_alone():
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="not written by unime"):
        unime.load_data(pairs(), "mine")
    assert [p.name for p in Path("mine").iterdir()] == ["notes.txt"]
    with pytest.raises(OutputError, match="is a file"):
        unime.load_data(pairs(), "mine/notes.txt")


def test_image_files_are_linked_and_never_touched(tmp_path: Path):
    photos = tmp_path / "photos"
    photos.mkdir()
    picture("red").save(photos / "a.png")
    (photos / "link.png").symlink_to("a.png")
    before = (photos / "a.png").stat()
    rows = [
        {"query": "a", "positive": Path("a.png")},
        {"query": "b", "positive": "link.png"},
        {"query": "c", "positive": {"text": "with a text", "image": photos / "a.png"}},
        {"query": "d", "positive": picture("blue")},
    ]
    data = unime.load_data(rows, "data", root=photos)
    paths = [Path(str(row["positives"][0]["image"])) for row in data.rows()]
    assert len(set(paths)) == 2
    assert all(path.is_relative_to("data") for path in paths)
    assert paths[0].read_bytes() == (photos / "a.png").read_bytes()
    assert (before.st_mtime_ns, before.st_size) == (paths[0].stat().st_mtime_ns, before.st_size)
    assert sorted(p.name for p in photos.iterdir()) == ["a.png", "link.png"]


def captioned(folder: Path) -> Path:
    folder.mkdir()
    lines = []
    for colour in COLOURS:
        picture(colour).save(folder / f"{colour}.png")
        lines.append(json.dumps({"image": f"{colour}.png", "caption": f"a {colour} picture"}))
    (folder / "captions.jsonl").write_text("\n".join(lines) + "\n")
    return folder


class Frame:
    """What load_data knows of a DataFrame."""

    iloc = None

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows[0])  # as pandas does: the columns

    def to_dict(self, orient: str) -> list[dict[str, Any]]:
        assert orient == "records"
        return self.rows


def test_every_form_of_captioned_images_makes_the_same_pairs():
    folder = captioned(Path("photos"))
    rows = [{"image": picture(c), "caption": f"a {c} picture"} for c in COLOURS]
    named = [{"image": f"photos/{c}.png", "caption": f"a {c} picture"} for c in COLOURS]
    encoded = [
        {**row, "image": {"bytes": Path(row["image"]).read_bytes(), "path": None}} for row in named
    ]
    found = {
        "folder": folder, "file": str(folder / "captions.jsonl"), "rows": rows, "frame": Frame(rows),
        "generator": iter(rows), "paths": named, "encoded": encoded,
    }  # fmt: skip
    for form, source in found.items():
        data = unime.load_data(source, f"out/{form}")
        assert list(data.tasks) == ["image_to_text", "text_to_image"], form
        texts = [row["query"]["text"] or row["positives"][0]["text"] for row in data.rows()]
        assert sorted(texts) == sorted(2 * [f"a {c} picture" for c in COLOURS]), form
    one = unime.load_data(folder, "out/one", direction="t2i", query_instruction="Find it")
    assert {row["query_instruction"] for row in one.rows()} == {"Find it"}
    with pytest.raises(RecipeError, match="belongs to one direction"):
        unime.load_data(folder, "out/two", query_instruction="Find it")


def test_captioned_images_are_read_as_unime_data_reads_them():
    sources = yaml.safe_load(_DATA.format(place="x", train=1, test=1))["sources"]
    data = unime.load_data(captioned(Path("photos")), "data")
    recipe = files.read_json(data.path / "manifest.json")["recipe"]
    for given, written in zip(recipe["sources"], sources, strict=True):
        assert given.items() >= {k: v for k, v in written.items() if k != "path"}.items()


def test_an_embedder_takes_what_people_have(run: Path):
    embedder = Embedder(run / "trained", "cpu")
    image = picture("red")
    image.save("red.png")
    vectors = embedder.encode(
        ["a red picture", image, Path("red.png"), {"image": "red.png"}, {"text": "x", "image": image}],
        side="target",
    )  # fmt: skip
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(vectors[1], vectors[2])
    np.testing.assert_array_equal(vectors[1], vectors[3])
    same = embedder.encode([Encode("a red picture", None, "target", "")])
    np.testing.assert_allclose(vectors[:1], same, atol=2e-6)
    asked = embedder.encode(["a red picture"], instruction="Find it")
    assert not np.allclose(asked, same, atol=1e-4)
    assert embedder.similarity(vectors[:1], vectors) == pytest.approx(vectors[:1] @ vectors.T)
    with pytest.raises(DataError, match="expected a list of inputs"):
        embedder.encode("a text")
    for bad, said in (
        ("", "neither text"),
        (Path("no.png"), "no.png"),
    ):
        with pytest.raises(DataError, match=said):
            embedder.encode([bad])  # type: ignore[list-item]


def test_a_model_is_loaded_as_its_folder_says(run: Path, base: dict[str, Any]):
    texts = ["a red picture", {"text": "x", "image": picture("blue")}]
    vectors = [
        Embedder(run / n, "cpu").encode(texts) for n in ("trained", "trained/model", "export")
    ]
    for other in vectors[1:]:
        np.testing.assert_allclose(vectors[0], other, atol=1e-5)
    trained = TrainedModel.open(run / "trained")
    assert Embedder(trained, "cpu").config.max_pixels == SETTINGS["max_pixels"]
    assert Embedder(trained, "cpu", max_pixels=784).config.max_pixels == 784
    assert model_section(trained, "embedder") == {
        **model_section(base, "embedder"), "id": str(run / "trained/model"),
        "prompt": "embed/hierarchical.v1", "attn_implementation": "sdpa",
    }  # fmt: skip
    assert "prompt" not in model_section(trained, "judge")
    with pytest.raises(ModelError, match=r"is a reranker; load it with unime\.Reranker"):
        Embedder(run / "reranker", "cpu")
    with pytest.raises(RecipeError, match="max_pixel: no such key; did you mean 'max_pixels'"):
        Embedder(base["id"], "cpu", max_pixel=5)  # type: ignore[call-arg]


def test_a_reranker_scores_pairs_as_it_ranks(run: Path):
    reranker = Reranker(run / "reranker", device="cpu")
    candidates = [picture(colour) for colour in COLOURS[:3]]
    scores = reranker.score([("a red picture", one) for one in candidates] + [("other", "text")])
    assert scores[:3] == pytest.approx(reranker.rank("a red picture", candidates).scores, abs=1e-5)
    assert scores[3] == pytest.approx(reranker.rank("other", ["text"]).scores[0], abs=1e-5)
    exported = Reranker(run / "export", device="cpu")
    assert exported.score([("a red picture", candidates[0])]) == pytest.approx(scores[:1], abs=1e-5)


def test_a_judge_scores_what_the_stage_scores(run: Path, base: dict[str, Any]):
    judged = JudgedCandidates.open(run / "judged")
    row = next(judged.rows())
    judge = Judge(base, options={"min_answer_mass": 0.0})
    sides = [row["positive"], *({k: c[k] for k in ("text", "image")} for c in row["candidates"])]
    found = judge.score([(row["query"], side) for side in sides], row["instruction"])
    told = [row["positive_score"], *(c["score"] for c in row["candidates"])]
    assert found == pytest.approx(told, abs=1e-3)  # float16 on disk
    assert judge.fingerprint == judged.facts["judge"]
    assert len(judge.score([])) == 0


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("UNIME_JUDGE_API_KEY", "a-secret-key")
    with Server() as server:
        yield server


def test_a_judge_behind_a_server_works_in_a_notebook_too(server: Server):
    judges = [Judge(server.url), Judge(MODEL, endpoints=[server.url])]
    ask = [("a red picture", picture("red")), ("one", "two")]
    expected = judges[0].score(ask)
    assert sorted(expected) == pytest.approx(sorted(probability(text) for text in server.calls))

    async def cell() -> np.ndarray:
        return judges[1].score(ask)

    np.testing.assert_array_equal(asyncio.run(cell()), expected)
    with pytest.raises(RecipeError, match="name the model beside endpoints"):
        Judge(server.url, endpoints=[server.url])
    with pytest.raises(EngineError, match="no judge at"):
        Judge("http://127.0.0.1:9/v1")


def test_evaluate_takes_models_of_every_kind(run: Path, base: dict[str, Any]):
    photos = captioned(Path("photos"))
    found = unime.evaluate(
        {"base": base, "trained": run / "trained", "export": run / "export"}, {"captions": photos}, "eval"
    )  # fmt: skip
    before, trained, export = found.rows()
    assert [row["name"] for row in found.rows()] == ["base", "trained", "export"]
    assert trained["retrieval"] == export["retrieval"]
    assert "chance" in before
    assert str(found) == Path("eval/table.txt").read_text()
    again = unime.evaluate(run / "trained", {"captions": {"root": str(photos), "limit": 4}}, "few")
    assert again.rows()[0]["name"] == "trained"


def test_wrong_arguments_say_what_was_meant(run: Path):
    with pytest.raises(OutputError, match="output of stage 'select', expected one of 'mine'"):
        unime.judge_candidates(run / "rows", "any", "out")
    with pytest.raises(OutputError, match="expected the output of stage 'data', it is not there"):
        unime.mine_negatives("nowhere", "any", "out")
    with pytest.raises(RecipeError, match="no option 'learing_rate'; did you mean 'learning_rate'"):
        unime.train_embedder(run / "data", "any", "out", learing_rate=1e-4)  # type: ignore[call-arg]
    with pytest.raises(RecipeError, match="candidate: no such key; did you mean 'candidates'"):
        unime.mine_negatives(run / "data", "any", "out", candidate=3)  # type: ignore[call-arg]
    with pytest.raises(RecipeError, match=r"candidates: .* greater than 0 \(got 0\)"):
        unime.mine_negatives(run / "data", "any", "out", candidates=0)
    assert not Path("out").exists()


WRONG_TYPES = """
import sys
from unime import Embedder, Judge, evaluate, train_embedder
from unime.core.errors import UnimeError
run, base = sys.argv[1:]
embedder, judge = Embedder(base, "cpu"), Judge(base)
for call in (
    lambda: train_embedder(run + "/data", base, "out", rows=3),
    lambda: embedder.encode({"text": "x"}),
    lambda: embedder.encode(iter("ab")),
    lambda: embedder.encode(["x", 3]),
    lambda: embedder.encode([{"text": 3}]),
    lambda: judge.score("ab"),
    lambda: judge.score(["ab"]),
    lambda: judge.score([("x", 3)]),
    lambda: evaluate(3, {}, "out"),
):
    try:
        print("no error", call())
    except UnimeError as error:
        print(error)
"""


def test_a_wrong_type_is_one_sentence_where_nothing_checks_types(run: Path, base: dict[str, Any]):
    environment = {"PYTHONPATH": str(ROOT), "PATH": "", "HOME": str(Path.cwd())}
    words = [sys.executable, "-c", WRONG_TYPES, str(run), base["id"]]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    expected = (
        "expected a SelectedNegatives or its folder, got a int",
        "got a dict,", "got a str_ascii_iterator,", "input 1: expected a text, an image",
        "input 0: expected a text under 'text', got int", "expected a list of pairs, got a str",
        "pair 0: expected (query, candidate)", "pair 0, candidate: expected a text",
        "models: expected a model, or several by name, got a int",
    )  # fmt: skip
    for line, wanted in zip(done.stdout.splitlines(), expected, strict=True):
        assert wanted in line, done.stderr


EXAMPLE = ROOT / "examples/own_pictures.py"


def test_own_pictures_has_twenty_lines():
    assert len(ast.parse(EXAMPLE.read_text()).body) <= 20


def test_own_pictures_runs(tmp_path: Path):
    (tmp_path / "assets").symlink_to(ROOT / "assets")
    photos = tmp_path / "photos"
    photos.mkdir()
    for colour in COLOURS[:7]:
        picture(colour, 64).save(photos / f"{colour}.png")
        (photos / f"{colour}.txt").write_text(f"a {colour} picture")
    words = [sys.executable, str(EXAMPLE), "photos", "runs/photos", "2"]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "", "HOME": str(tmp_path)}

    def said() -> str:
        done = subprocess.run(
            words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == "(1, 256)"
        return done.stderr

    assert said().count(": finished runs/photos/") == 7
    assert said().count("is up to date") == 7
    assert (tmp_path / "runs/photos/export/embedder/modules.json").is_file()
