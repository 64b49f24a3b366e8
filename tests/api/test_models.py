"""`Embedder`, `Reranker` and `Judge` on what people have: texts, paths, images, dicts."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.api.given import COLOURS, SETTINGS, picture
from tests.conftest import ROOT
from tests.judge.misbehaving import MODEL, Server, probability
from unime.api.results import JudgedCandidates, TrainedModel
from unime.core.errors import DataError, ModelError, RecipeError
from unime.judge.engine import EngineError
from unime.judge.judge import Judge
from unime.models.embedder import Embedder
from unime.models.inputs import ModelInput
from unime.models.model_folder import model_section
from unime.rerank.reranker import Reranker


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
    same = embedder.encode([ModelInput("a red picture", None, "target", "")])
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
