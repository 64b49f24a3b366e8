"""The export where this package was never installed: a fresh environment, and a vLLM server."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from tests.conftest import ROOT
from tests.export.student import export_student
from tests.serving import NAME, ask, vllm_server
from unime.core import files
from unime.core.stage import execute
from unime.export.verify import SEAL, verify_folder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny student as the mini recipe exports it, in several shards."""
    folder = tmp_path_factory.mktemp("export") / "embedder"
    return export_student(folder, max_shard_size="5MB", matryoshka_dims=[128, 64])


def test_a_fresh_environment_with_sentence_transformers_alone(export: Path):
    made = subprocess.run(
        ["make", "user-env"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if made.returncode != 0:
        pytest.skip(f"no package index to make .venv-user from: {made.stderr[-300:]}")
    python = str(ROOT / ".venv-user/bin/python")
    probe = [python, "-I", "-c", "import unime"]
    assert subprocess.run(probe, capture_output=True, check=False).returncode != 0
    verify_folder(export, python=python)
    worst = files.read_json(export / SEAL)["worst_cosine"]
    assert set(worst) == {"unime", "sentence-transformers", "transformers"}
    assert min(worst.values()) >= 0.9999


@pytest.fixture(scope="module")
def server(export: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with vllm_server(export, tmp_path_factory.mktemp("vllm") / "server.log") as address:
        yield address


def test_a_vllm_server_gives_the_same_embeddings(export: Path, server: str):
    verify_folder(export, server=server)
    worst = files.read_json(export / SEAL)["worst_cosine"]
    assert worst["vLLM"] >= 0.999


def test_a_vllm_server_is_evaluated_like_a_local_model(export: Path, server: str, tmp_path: Path):
    world = {
        "stage": "world",
        "queries": 6,
        "candidates": 6,
        "train_pairs": 2,
        "compositional": 3,
        "workers": 1,
    }
    (tmp_path / "world.yaml").write_text(
        yaml.safe_dump({**world, "output": str(tmp_path / "world")})
    )
    execute("research.world.build", tmp_path / "world.yaml")
    pixels = {"dtype": "float32", "min_pixels": 4096, "max_pixels": 4096, "max_length": 256}
    recipe = {
        "stage": "eval",
        "output": str(tmp_path / "eval"),
        "benchmarks": [
            {"name": name, "root": str(tmp_path / "world")}
            for name in ("mini_mmeb", "mini_compositional")
        ],
        "models": [
            {"name": "local", "model": {"id": str(export), **pixels}},
            {"name": "served", "endpoint": {"url": f"{server}/v1", "served_model": NAME}},
        ],
    }
    (tmp_path / "eval.yaml").write_text(yaml.safe_dump(recipe))
    execute("unime.eval.stage", tmp_path / "eval.yaml")
    rows = {row["name"]: row for row in files.read_json(tmp_path / "eval/results.json")["rows"]}
    assert rows["served"]["overall"] == rows["local"]["overall"]
    for task in sorted((tmp_path / "eval/local/mini_mmeb").glob("*.parquet")):
        local, served = (
            np.stack(pq.read_table(folder)["top_similarities"].to_pylist())
            for folder in (task, tmp_path / "eval/served/mini_mmeb" / task.name)
        )
        assert np.abs(local - served).max() < 1e-3, task.stem


def test_a_vllm_server_scores_reranks_and_shortens(server: str):
    texts = {"documents": ["a red circle", "a recipe for bread", "a blue square"]}
    scores = ask(f"{server}/score", {"queries": "a red circle", **texts})["data"]
    assert [row["index"] for row in scores] == [0, 1, 2]
    ranked = ask(f"{server}/rerank", {"query": "a red circle", **texts})["results"]
    # Equal to the query means similarity 1: nothing can be above it.
    assert ranked[0]["index"] == 0 and ranked[0]["relevance_score"] == pytest.approx(1, abs=1e-3)
    messages = [{"role": "user", "content": "a red circle"}]
    short = ask(f"{server}/v1/embeddings", {"messages": messages, "dimensions": 64})
    assert len(short["data"][0]["embedding"]) == 64
