"""Workers that are started afresh (spawn: macOS, Windows, Python 3.14) prepare the same batches."""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.families import build_family
from tests.rerank.test_stage import recipe_of as rerank_recipe
from tests.train.folder import drawn_folder
from unime.data.data_folder import DataFolder
from unime.data.known_positives import KnownPositives, content_numbers
from unime.data.training_rows import PairColumns
from unime.models.embedder import Embedder
from unime.models.model_config import ModelConfig
from unime.rerank import RerankModel
from unime.rerank import stage as rerank
from unime.train import contrast
from unime.train.batch import Batch
from unime.train.chunking import ChunkBudget
from unime.train.contrast import ContrastRecipe
from unime.train.loader import BatchSource, make_loader
from unime.train.sampler import TaskBatches
from unime.train.text_batches import TextLayout

LENGTH = 4


def contrast_source(folder: Path) -> BatchSource:
    model = {"id": str(folder / "base"), "dtype": "float32", "max_pixels": 3136}
    recipe = ContrastRecipe.model_validate(
        {
            "stage": "contrast", "output": "out", "data": str(folder / "d"), "model": model,
            "budget": {"items": 5}, "training": {"global_batch_size": 6, "max_steps": LENGTH},
        }
    )  # fmt: skip
    embedder = Embedder.load(recipe.model, "cpu")
    data = DataFolder.open(recipe.data)
    columns, rows = PairColumns.of(data), contrast.rows_of(recipe, data)
    known = KnownPositives(data, content_numbers(data.items))
    layout = contrast.layout_of(recipe, data, columns, rows, rows.by_task(columns), known)
    return BatchSource(layout, embedder.renderer.packed, recipe.budget)


def distill_source(folder: Path) -> BatchSource:
    embedder = Embedder.load(ModelConfig(id=str(folder / "base")), "cpu")
    texts = [f"a picture of {number} red circles" for number in range(20)]
    teacher = np.random.default_rng(0).standard_normal((20, 6)).astype(np.float16)
    batches = TaskBatches({"texts": np.arange(20)}, 6, 0)
    layout = TextLayout(texts, teacher, batches, embedder.config, "target")
    return BatchSource(layout, embedder.renderer.features, ChunkBudget(items=4))


def questions_source(folder: Path) -> BatchSource:
    recipe = rerank_recipe(
        folder, "out", ask={"hard": 0, "drawn": 3, "lists": {}},
        losses=[{"name": "yes_no"}, {"name": "choose"}],
    )  # fmt: skip
    data = DataFolder.open(recipe.data)
    columns, rows = PairColumns.of(data), rerank.rows_of(recipe, data)
    known = KnownPositives(data, content_numbers(data.items))
    layout = rerank.layout_of(recipe, data, columns, rows, known)
    return BatchSource(layout, RerankModel.load(recipe.model, "cpu").inputs, recipe.budget)


SOURCES: dict[str, Callable[[Path], BatchSource]] = {
    "contrast": contrast_source,
    "distill": distill_source,
    "rerank": questions_source,
}


@pytest.fixture(scope="module", params=["qwen3_vl", "llava_onevision"])
def folder(request, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp(request.param)
    build_family(request.param, path / "base")
    drawn_folder(path / "d")
    return path


@pytest.mark.parametrize("stage", SOURCES)
def test_a_source_is_sent_without_its_model_and_gives_the_same_batches(stage, folder):
    """The whole way: as a worker gets it, from bytes that hold no weight."""
    source = SOURCES[stage](folder)
    sent = bytes(ForkingPickler.dumps(source))
    assert b"_rebuild_parameter" not in sent
    again = pickle.loads(sent)
    for number in range(LENGTH):
        assert_equal(again[number], source[number])


class Three(BatchSource):
    """The sources in turns, for one worker process: starting one is what takes long."""

    def __init__(self, sources: list[BatchSource]) -> None:
        self.sources, self.budget = sources, sources[0].budget

    def __getitem__(self, number: int) -> Batch:
        return self.sources[number % 3][number // 3]


def test_a_spawned_worker_gives_the_batches_of_the_thread(folder):
    source = Three([make(folder) for make in SOURCES.values()])
    expected = [found["batch"] for found in make_loader(source, 1, 3 * LENGTH, 0)]
    loader = make_loader(source, 1, 3 * LENGTH, 1)
    loader.multiprocessing_context = multiprocessing.get_context("spawn")
    found = [one["batch"] for one in loader]
    assert len(found) == 3 * LENGTH - 1
    for one, other in zip(found, expected, strict=True):
        assert_equal(one, other)


def assert_equal(one: Batch, other: Batch) -> None:
    assert (one.name, one.kept, one.number) == (other.name, other.kept, other.number)
    assert one.counts == other.counts and len(one.chunks) == len(other.chunks)
    for chunk, expected in zip(one.chunks, other.chunks, strict=True):
        assert chunk.seed == expected.seed and torch.equal(chunk.places, expected.places)
        assert chunk.features.keys() == expected.features.keys()
        for name, value in chunk.features.items():
            assert torch.equal(value, expected.features[name]), name
    for name, value in vars(one.indices).items():
        expected_value: Any = vars(other.indices)[name]
        assert torch.equal(value.nan_to_num(7), expected_value.nan_to_num(7)), name
