"""Models of every kind through one command; what an encoder must not change."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from tests.eval.small import Hashed, recipe, unit, write_world
from tests.families import build_family
from tests.narrow import narrow
from unime.core import files
from unime.core.errors import DataError, ModelError, RecipeError
from unime.core.stage import execute
from unime.eval import encode
from unime.eval import two_stage as rerank
from unime.eval.commands import app
from unime.eval.compare import compare, compare_text
from unime.eval.encoders.embedding_server import EndpointConfig, load_endpoint
from unime.eval.encoders.open_clip import OpenClipConfig, load_open_clip
from unime.eval.encoders.registry import ModelEntry, expand
from unime.eval.pool import Pool
from unime.eval.similarity import Vectors, compress
from unime.models.inputs import ModelInput
from unime.models.rerank_model import RerankConfig, RerankModel
from unime.rerank import Reranker
from unime.rerank.reranker import as_side


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def encoders(monkeypatch):
    given = {"first": Hashed("first"), "second": Hashed("second")}
    monkeypatch.setattr(encode, "load_encoder", lambda entry, device=None: given[entry.source[5:]])
    return given


def evaluate(values: dict, tmp_path: Path) -> dict:
    path = tmp_path / "9_eval.yaml"
    path.write_text(yaml.safe_dump(values))
    execute("unime.eval.stage", path)
    return {row["name"]: row for row in files.read_json(values["results"])["rows"]}


def test_a_model_is_of_one_kind():
    with pytest.raises(ValueError, match="needs just one of model, .* got none"):
        ModelEntry.model_validate({"name": "x"})
    with pytest.raises(ValueError, match="got model and open_clip"):
        ModelEntry.model_validate(
            {"name": "x", "model": {"id": "a"}, "open_clip": {"architecture": "b"}}
        )


def test_a_sweep_is_further_rows_from_the_same_embeddings(world, tmp_path, encoders):
    values = recipe(world, tmp_path / "out", ["first"])
    values["models"][0]["sweep"] = {"dims": [8], "precision": ["int8", "binary"]}
    rows = evaluate(values, tmp_path)
    assert list(rows) == ["first", "first, 8 dims", "first, int8", "first, binary"]
    timing = [
        files.read_json(p)["encoded_now"] for p in sorted((tmp_path / "out").glob("*/timing.json"))
    ]
    assert sorted(timing) == [0, 0, 0, encoders["first"].encoded]


def test_a_resolution_sweep_allows_other_preprocessing():
    entry = ModelEntry.model_validate(
        {"name": "m", "model": {"id": "a"}, "sweep": {"max_pixels": [1000]}}
    )
    plain, small = expand([entry])
    assert plain.model is not None and not plain.model.allow_other_preprocessing
    assert small.model is not None and small.model.allow_other_preprocessing
    assert (small.model.max_pixels, small.model.min_pixels) == (1000, 1000)


def test_compression_keeps_cosines_as_far_as_it_says():
    values = unit(np.random.default_rng(0).normal(size=(50, 64)))
    exact = values @ values.T
    int8 = compress(values, None, "int8")
    assert np.abs(int8 @ int8.T - exact).max() < 0.02
    binary = compress(values, None, "binary")
    hamming = ((values[:, None] >= 0) != (values[None] >= 0)).mean(axis=2)
    assert np.allclose(binary @ binary.T, 1 - 2 * hamming, atol=1e-5)
    short = compress(values, 8, "float32")
    assert short.shape == (50, 8) and np.allclose(np.linalg.norm(short, axis=1), 1, atol=1e-5)
    with pytest.raises(RecipeError, match="dims: 65, but the embeddings have 64"):
        compress(values, 65, "float32")


def test_open_clip_with_random_weights_encodes_all_kinds():
    config = OpenClipConfig(architecture="RN50-quickgelu")
    with pytest.raises(ModelError, match="has no weights: name them by pretrained"):
        load_open_clip(config)
    model = load_open_clip(tiny_clip())
    image = Image.new("RGB", (40, 30), "red")
    found = model.encode(
        [
            ModelInput("a"),
            ModelInput("", image),
            ModelInput("a", image),
            ModelInput("", None, "query", "i"),
        ]
    )
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    both = found[0] + found[1]
    assert np.allclose(found[2], both / np.linalg.norm(both), atol=1e-5)


def test_open_clip_goes_through_the_same_command(world, tmp_path):
    values = recipe(world, tmp_path / "out", [])
    values["models"] = [{"name": "clip", "open_clip": tiny_clip().model_dump()}]
    row = evaluate(values, tmp_path)["clip"]
    assert 0 <= row["overall"] <= 100
    # Fixed random weights: twice the same.
    again = evaluate({**values, "output": str(tmp_path / "again")}, tmp_path)["clip"]
    assert again["overall"] == row["overall"]


def tiny_clip() -> OpenClipConfig:
    import open_clip
    from open_clip import factory

    name = "unime-test-tiny"
    if name not in open_clip.list_models():
        config = {
            "embed_dim": 16,
            "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
            "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
        }  # fmt: skip
        factory._MODEL_CONFIGS[name] = config
    return OpenClipConfig(architecture=name, random_weights=True)


class StandIn:
    """A server that embeds what it is sent as `Hashed` would; busy at first."""

    def __init__(self) -> None:
        self.requests: list[dict] = []
        self.busy = 2
        self._hashed = Hashed("served")

    async def answer(self, request):
        from aiohttp import web

        body = await request.json()
        self.requests.append(body)
        if self.busy:
            self.busy -= 1
            return web.Response(status=503)
        if body["model"] != "m":
            return web.json_response({"error": "no such model"}, status=404)
        parts = body["messages"][-1]["content"]
        text = "".join(part.get("text", "") for part in parts)
        image = None
        if parts[0]["type"] == "image_url":
            data = parts[0]["image_url"]["url"].partition(",")[2]
            image = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")
        vector = self._hashed.encode([ModelInput(text, image)])[0]
        return web.json_response({"data": [{"embedding": (2 * vector).tolist()}]})

    def start(self) -> str:
        from aiohttp import web

        ready, found = threading.Event(), []

        async def serve() -> None:
            application = web.Application(client_max_size=1 << 26)
            application.router.add_post("/v1/embeddings", self.answer)
            runner = web.AppRunner(application)
            await runner.setup()
            site: Any = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            found.append(site._server.sockets[0].getsockname()[1])
            ready.set()
            await asyncio.Event().wait()

        threading.Thread(target=lambda: asyncio.run(serve()), daemon=True).start()
        assert ready.wait(60)
        return f"http://127.0.0.1:{found[0]}/v1"


def test_an_endpoint_gets_the_rendered_prompt_and_is_retried():
    server = StandIn()
    url = server.start()
    model = load_endpoint(EndpointConfig(url=url, served_model="m"))
    image = Image.new("RGB", (8, 8), "red")
    found = model.encode(
        [ModelInput("a text", image, "query", "Find it"), ModelInput("other", None, "target")]
    )
    assert found.shape == (2, 32) and np.allclose(np.linalg.norm(found, axis=1), 1)
    sent = next(r["messages"] for r in server.requests if len(r["messages"][-1]["content"]) == 2)
    assert sent[0]["role"] == "system"
    assert (
        sent[-1]["content"][1]["text"].startswith("Find it")
        and "a text" in sent[-1]["content"][1]["text"]
    )
    with pytest.raises(ModelError, match="answered 404: .*no such model"):
        load_endpoint(EndpointConfig(url=url, served_model="x")).encode([ModelInput("a")])


def test_embeddings_from_elsewhere(world, tmp_path):
    values = recipe(world, tmp_path / "out", ["first"])
    path = tmp_path / "9_eval.yaml"
    path.write_text(yaml.safe_dump(values))
    folder = tmp_path / "given"
    CliRunner().invoke(app, ["inputs", str(path), str(folder)], catch_exceptions=False)
    inputs = pq.read_table(folder / "inputs.parquet")
    assert {inputs.schema.field(name).type for name in ("text", "image")} == {pa.large_string()}
    narrow(folder / "inputs.parquet")  # an older version wrote it
    generator = np.random.default_rng(0)
    np.save(folder / "embeddings.npy", generator.normal(size=(inputs.num_rows, 8)))
    values["models"] = [{"name": "given", "embeddings": {"id": str(folder)}}]
    rows = evaluate(values, tmp_path)
    assert 0 <= rows["given"]["overall"] <= 100
    np.save(folder / "embeddings.npy", generator.normal(size=(3, 8)))
    values["output"] = str(tmp_path / "other")
    with pytest.raises(ModelError, match=r"has shape \(3, 8\), expected \(\d+, dim\)"):
        evaluate(values, tmp_path)


class Oracle:
    """A reranker that knows the world: the colour in the query's instruction or picture."""

    def __init__(self) -> None:
        self.pairs = 0

    def score(self, pairs):
        self.pairs += len(pairs)
        return np.array([self._right(query, target) for query, target in pairs], dtype=np.float32)

    def _right(self, query, target) -> float:
        named = {"red": (255, 0, 0), "green": (0, 128, 0), "blue": (0, 0, 255), "white": (255,) * 3}
        shown = query.image or target.image
        words = target.text if query.image else query.text
        return 0.9 if named.get(words.split(":")[-1].strip()) == shown.getpixel((0, 0)) else 0.1


def test_a_reranker_orders_the_first_k_anew(world, tmp_path, encoders, monkeypatch):
    oracle = Oracle()
    monkeypatch.setattr(rerank, "load_reranker", lambda choice: oracle)
    values = recipe(world, tmp_path / "out", ["first"])
    values["benchmarks"] = values["benchmarks"][:1]
    for k in (1, 5):
        again = {**values["models"][0], "name": f"top {k}", "reranker": {"id": "x/y", "top_k": k}}
        values["models"].append(again)
    rows = evaluate(values, tmp_path)
    assert rows["top 1"]["overall"] == rows["first"]["overall"]
    # All five candidates seen: right wherever the oracle knows the colour (4 of 6 queries a task).
    assert rows["top 5"]["overall"] >= 60 > rows["first"]["overall"]


def test_a_reranker_trained_here_is_asked_as_in_training(tmp_path):
    config = RerankConfig(id=str(build_family("qwen2_vl", tmp_path / "base")), dtype="float32")
    model = RerankModel.load(config, "cpu")
    model.save(tmp_path / "reranker")
    scorer = rerank.load_reranker(rerank.RerankerChoice(id=str(tmp_path / "reranker")))
    image, query = Image.new("RGB", (56, 56), "red"), ModelInput("a", None, "query", "find it")
    found = scorer.score(
        [(query, ModelInput("", image, "target")), (query, ModelInput("b", None, "target"))]
    )
    asked = Reranker(model).pointwise(as_side("a"), [as_side(image), as_side("b")], "find it")
    assert np.allclose(found, asked, atol=1e-5)


def test_reranked_scores_lie_above_all_others_and_keep_ties():
    pool = Pool()
    pool.add(["q", "a", "b", "c"], [None] * 4, [""] * 4, root=Path(), side="query")
    values = unit(np.array([[1, 0], [0.9, 0.1], [0.8, 0.2], [0.1, 0.9]]))

    class Same:
        def score(self, pairs):
            return np.full(len(pairs), 0.5, dtype=np.float32)

    choice = rerank.RerankerChoice(id="x", top_k=2)
    reranked = rerank.Reranked(Vectors(values, "m"), Same(), pool, choice)
    ((_, block),) = reranked.blocks(np.array([0]), np.array([1, 2, 3]))
    assert block[0, 0] == block[0, 1] == 0.5 and block[0, 2] < -2
    listed = reranked.listed(np.array([0]), np.array([1, 2, 3]), np.arange(3), np.array([0, 3]))
    assert np.array_equal(listed, block[0])


def test_outputs_for_others(world, tmp_path, encoders):
    evaluate(recipe(world, tmp_path / "out", ["first"]), tmp_path)
    folder = tmp_path / "out/first"
    report = files.read_json(folder / "scores.json")
    assert {"model_name", "embedding_dimension", "data_source", "report_generated_date"} <= report[
        "metadata"
    ].keys()
    task = report["metrics"]["image"]["colour_name"]
    found = report["benchmarks"]["mini_mmeb"]["tasks"]["colour_name"]
    assert task["hit@1"] == pytest.approx(found["score"] / 100, abs=1e-5)
    assert (task["num_pred"], task["num_data"]) == (6, 6)
    assert set(report["metrics"]) == {"image", "video", "visdoc"}
    import pytrec_eval

    with (
        (tmp_path / "out/qrels/mini_mmeb/colour_name.qrels").open() as qrels,
        (folder / "trec/mini_mmeb/colour_name.run").open() as run,
    ):
        judged, ranked = pytrec_eval.parse_qrel(qrels), pytrec_eval.parse_run(run)
    scores = pytrec_eval.RelevanceEvaluator(judged, {"success.1"}).evaluate(ranked)
    assert np.mean([s["success_1"] for s in scores.values()]) == pytest.approx(
        found["score"] / 100, abs=1e-5
    )
    lines = (tmp_path / "out/scores.csv").read_text().splitlines()
    assert lines[0].startswith("model,benchmark,version,task") and any(
        ",colour_name," in x for x in lines
    )


def test_hub_results_name_data_set_and_interval(tmp_path):
    from unime.eval.benchmark import load_benchmark
    from unime.eval.outputs import write_eval_results

    found = {"score": 12.5, "low": 10.0, "high": 15.0, "metric": "spearman"}
    write_eval_results(
        [load_benchmark("sts_benchmark")],
        {"sts_benchmark": {"limit": None, "tasks": {"stsb": found}}},
        tmp_path,
    )
    (line,) = yaml.safe_load((tmp_path / ".eval_results/sts_benchmark.yaml").read_text())
    assert line["dataset"]["id"] == "mteb/stsbenchmark-sts" and line["value"] == 12.5
    assert "10.0 to 15.0" in line["notes"]


def test_two_models_compared(world, tmp_path, encoders):
    evaluate(recipe(world, tmp_path / "out"), tmp_path)
    first, second = tmp_path / "out/first", tmp_path / "out/second"
    text = compare_text(first, second)
    assert "mean overall" in text and "p (Holm)" in text
    for differences in compare(first, first).values():
        assert all(d.difference == 0 and d.p == 1 and d.low == d.high == 0 for d in differences)
    forward, backward = compare(first, second), compare(second, first)
    for one, other in zip(forward["mini_mmeb"], backward["mini_mmeb"], strict=True):
        assert one.difference == pytest.approx(-other.difference)
        assert one.low <= one.difference <= one.high
    with pytest.raises(DataError, match="is no evaluated model .* holds the models first, second"):
        compare_text(tmp_path / "out", second)


def test_another_version_is_not_compared(world, tmp_path, encoders):
    evaluate(recipe(world, tmp_path / "out"), tmp_path)
    path = tmp_path / "out/second/scores.json"
    scores = json.loads(path.read_text())
    scores["benchmarks"]["mini_mmeb"]["version"] = "2"
    path.write_text(json.dumps(scores))
    with pytest.raises(DataError, match="mini_mmeb: version 1 and 2 cannot be compared"):
        compare(tmp_path / "out/first", tmp_path / "out/second")
