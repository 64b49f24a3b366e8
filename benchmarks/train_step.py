"""One training step, preprocessing included: the cached step beside its peers and its own floor.

python -m benchmarks.train_step [--batch 256] [--negatives 8] [--rounds 7]

Peers: sentence-transformers' cached loss at the best of its settings, and a two-pass gradient cache
as the field writes it (fixed chunks of rows in the order they come, each column by itself). All
get the same inputs, rendered by the same template, and train the same parameters.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.common import interleaved_rounds, median_ratio, medians, report, say
from benchmarks.mixture import adapted, build_model, inputs
from unime.losses import ContrastBatch, LossTerm, combine
from unime.models.adapters import tower_is_frozen
from unime.models.embedder import Embedder
from unime.models.inputs import ModelInput
from unime.models.model_config import ModelConfig
from unime.train.backends import DataParallelRunner
from unime.train.batch import ContrastIndices, Layout
from unime.train.chunking import ChunkBudget, estimate_sizes
from unime.train.loader import BatchSource
from unime.train.sampler import TaskBatches
from unime.train.step import cached_step

TEMPERATURE = 0.02
SAMPLE = 32
"""Rows of a batch that settings are chosen on."""
LORA = {"method": "lora", "parts": ["language"], "r": 16}
FULL = {"method": "full", "parts": ["language", "vision", "projector"]}


class Columns(NamedTuple):
    """A global batch: columns of inputs, row by row; equal inputs are the same object."""

    columns: list[list[ModelInput]]
    """Queries, positives, then one column a negative."""


def make_batch(rows: int, negatives: int, repeats: float) -> Columns:
    """Return a batch of which exactly a share of the inputs repeats others."""
    named = rows * (2 + negatives)
    distinct = named - rows - round(named * repeats)
    targets = inputs(distinct, seed=1, side="target")
    slots = list(range(distinct))
    rng = np.random.default_rng(2)
    for slot in range(distinct, rows * (1 + negatives)):
        own = slot % rows
        others = rng.integers(0, distinct - 1)
        slots.append(int(others + (others >= own)))
    cells = [targets[slot] for slot in slots]
    columns = [cells[start : start + rows] for start in range(0, len(cells), rows)]
    return Columns([inputs(rows, seed=0), *columns])


class MixtureLayout:
    """One global batch, the same under every number."""

    def __init__(self, batch: Columns, config: ModelConfig) -> None:
        # Only the seed of it counts here.
        self.batches = TaskBatches({"mixture": np.arange(2)}, 2, 0)
        self._batch, self._config = batch, config

    def layout(self, number: int) -> Layout:
        """Return the distinct inputs and who is whose positive and negative."""
        queries = self._batch.columns[0]
        places: dict[int, int] = {}
        targets: list[ModelInput] = []
        for column in self._batch.columns[1:]:
            for encode in column:
                if id(encode) not in places:
                    places[id(encode)] = len(targets)
                    targets.append(encode)
        columns = [[places[id(one)] for one in column] for column in self._batch.columns[1:]]
        matrix, rows = torch.tensor(columns).T, torch.arange(len(queries))
        allowed = torch.ones(len(queries), len(targets), dtype=torch.bool)
        allowed[rows, matrix[:, 0]] = False
        indices = ContrastIndices(
            query=rows,
            positive=matrix[:, 0],
            negatives=matrix[:, 1:],
            scores=torch.full(matrix.shape, float("nan")),
            allowed=allowed,
            related=torch.zeros_like(allowed),
        )
        sizes = np.concatenate([self._sizes(queries, "query"), self._sizes(targets, "target")])
        return Layout("mixture", [*queries, *targets], sizes, indices, {})

    def load(self, entry: ModelInput) -> ModelInput:
        """Return an input as it is."""
        return entry

    def _sizes(self, encodes: Sequence[ModelInput], side: str) -> np.ndarray:
        characters = np.array([len(encode.text) for encode in encodes])
        pixels = [0 if e.image is None else e.image.width * e.image.height for e in encodes]
        return estimate_sizes(characters, np.array(pixels), self._config, side)


class Ours:
    """Distinct inputs, planned chunks, cached step."""

    def __init__(self, embedder: Embedder, budget: ChunkBudget) -> None:
        self.embedder, self.budget = embedder, budget
        self.loss = combine(
            [LossTerm(name="info_nce", options={"temperature": TEMPERATURE})], ContrastBatch
        )
        if tower_is_frozen(embedder.backbone):
            embedder.vision.budget = int(budget.vision_cache_gb * 1e9)
        self.runner = DataParallelRunner(embedder.network, embedder.vision, torch.device("cpu"))

    def source(self, batch: Columns) -> BatchSource:
        """Return what prepares a batch as training does."""
        layout = MixtureLayout(batch, self.embedder.config)
        return BatchSource(layout, self.embedder.renderer.packed, self.budget)

    def step(self, batch: Columns) -> float:
        """Prepare a batch and accumulate its gradient."""
        prepared = self.source(batch)[0]
        with self.runner.step(True):
            combined = cached_step(prepared, self.runner, self.loss).combined
        self.embedder.module.zero_grad()
        return float(combined.total)

    def floor(self, batch: Columns) -> None:
        """One pass without gradient and one with, over the same chunks: no loss, no bookkeeping."""
        chunks = self.source(batch)[0].chunks
        with torch.no_grad():
            for chunk in chunks:
                self.embedder.network(dict(chunk.features))
        for chunk in chunks:
            self.embedder.network(dict(chunk.features))["sentence_embedding"].sum().backward()
        self.embedder.module.zero_grad()


class CachedLoss:
    """sentence-transformers' CachedMultipleNegativesRankingLoss."""

    def __init__(self, stock: Any, embedder: Embedder, **settings: Any) -> None:
        from sentence_transformers.sentence_transformer.losses import (
            CachedMultipleNegativesRankingLoss,
        )

        self.stock, self.embedder = stock, embedder
        self.loss = CachedMultipleNegativesRankingLoss(stock, scale=1 / TEMPERATURE, **settings)

    def step(self, batch: Columns) -> float:
        """Prepare the columns and accumulate the gradient."""
        columns = [self._column(column) for column in batch.columns]
        value = self.loss(columns, torch.zeros(len(batch.columns[0])))
        value.backward()
        self.stock.zero_grad()
        return float(value)

    def _column(self, column: list[ModelInput]) -> dict[str, Tensor]:
        pictures = torch.tensor([int(encode.image is not None) for encode in column])
        return {**self.embedder.features(column), "num_images_per_sample": pictures}


class GradientCache:
    """Two passes over fixed chunks, column by column, as public gradient caches do."""

    def __init__(self, stock: Any, embedder: Embedder, chunk: int) -> None:
        self.stock, self.embedder, self.chunk = stock, embedder, chunk

    def step(self, batch: Columns) -> float:
        """Prepare the chunks and accumulate the gradient."""
        chunks = [
            self.embedder.features(column[start : start + self.chunk])
            for column in batch.columns
            for start in range(0, len(column), self.chunk)
        ]
        with torch.no_grad():
            blocks = [self._embed(features) for features in chunks]
        embeddings = torch.cat(blocks).requires_grad_()
        rows = len(batch.columns[0])
        logits = embeddings[:rows] @ embeddings[rows:].T / TEMPERATURE
        value = torch.nn.functional.cross_entropy(logits, torch.arange(rows))
        value.backward()
        gradient = embeddings.grad
        assert gradient is not None
        for features, part in zip(chunks, gradient.split([len(b) for b in blocks]), strict=True):
            (self._embed(features) * part).sum().backward()
        self.stock.zero_grad()
        return float(value)

    def _embed(self, features: dict[str, Tensor]) -> Tensor:
        return self.stock(dict(features))["sentence_embedding"]


def best_of(candidates: dict[str, Callable[[], Any]]) -> str:
    """Return the fastest in three rounds."""
    seconds = medians(interleaved_rounds(candidates, rounds=3))
    best = min(seconds, key=lambda name: seconds[name])
    say(f"best setting: {best} of {seconds}")
    return best


def compare(
    config: ModelConfig, batch: Columns, tune: dict[str, Any], rounds: int
) -> dict[str, list[float]]:
    """Time ours, the floor and the peers on one batch.

    The peer's settings are chosen, and everybody is warmed up, on its first rows.
    """
    few = Columns([column[:SAMPLE] for column in batch.columns])
    embedder, stock = adapted(config, tune)
    ours = Ours(embedder, ChunkBudget())
    settings: dict[str, dict[str, Any]] = {
        f"mini_batch_size={size}": {"mini_batch_size": size} for size in (8, 16, 32)
    }
    settings["mini_batch_num_tokens=4096"] = {"mini_batch_num_tokens": 4096}
    peers = {name: CachedLoss(stock, embedder, **values) for name, values in settings.items()}
    best = best_of({name: lambda p=peer: p.step(few) for name, peer in peers.items()})
    cache = GradientCache(stock, embedder, 32)
    values = {"ours": ours.step(few), "peer": peers[best].step(few), "cache": cache.step(few)}
    say(f"losses: {values}")
    if len({id(e) for column in few.columns for e in column}) == sum(map(len, few.columns)):
        # Repeats count once here and several times there; without any the losses must agree.
        assert max(values.values()) - min(values.values()) < 1e-3 * max(values.values()), values
    return interleaved_rounds(
        {
            "ours": lambda: ours.step(batch),
            "floor": lambda: ours.floor(batch),
            "sentence-transformers": lambda: peers[best].step(batch),
            "gradient cache": lambda: cache.step(batch),
        },
        rounds,
        warmup=0,
    )


def peak_bytes(config: ModelConfig, rows: int) -> dict[str, int]:
    """Take a step in a process of its own; return its peak memory and what embeddings take."""
    words = [sys.executable, "-m", "benchmarks.train_step", "--memory", str(rows), config.id]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure_memory(folder: str, rows: int) -> None:
    """Print the peak of one step without negatives."""
    from benchmarks.mixture import SIDES

    config = ModelConfig(
        id=folder, dtype="float32", min_pixels=SIDES[0] ** 2, max_pixels=SIDES[1] ** 2
    )
    embedder, _ = adapted(config, LORA)
    ours = Ours(embedder, ChunkBudget(tokens=4096, items=32, vision_cache_gb=0))
    ours.step(make_batch(rows, 0, 0.0))
    # Not getrusage: a child starts with its parent's peak.
    status = Path("/proc/self/status").read_text().split("VmHWM:")[1]
    stored = 2 * rows * embedder.dim * 4
    sys.stdout.write(json.dumps({"peak": int(status.split()[0]) * 1024, "stored": stored}) + "\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--negatives", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--memory", nargs=2, metavar=("ROWS", "MODEL"), help="measure one step")
    options = parser.parse_args(arguments)
    if options.memory:
        measure_memory(options.memory[1], int(options.memory[0]))
        return
    with tempfile.TemporaryDirectory() as folder:
        config = build_model(Path(folder))
        repeated = make_batch(options.batch, options.negatives, 0.3)
        with_repeats = compare(config, repeated, LORA, options.rounds)
        unique = compare(
            config, make_batch(options.batch, options.negatives, 0.0), FULL, options.rounds
        )
        small, large = peak_bytes(config, 64), peak_bytes(config, 1024)
    growth = (large["peak"] - large["stored"]) / (small["peak"] - small["stored"]) - 1
    report(
        "train_step",
        {
            "speedup_duplicates": median_ratio(with_repeats, "sentence-transformers", "ours"),
            "speedup_unique": median_ratio(unique, "sentence-transformers", "ours"),
            "step_over_floor": median_ratio(unique, "ours", "floor"),
            "memory_growth": round(growth, 3),
            "speedup_duplicates_over_gradient_cache": median_ratio(
                with_repeats, "gradient cache", "ours"
            ),
            "speedup_unique_over_gradient_cache": median_ratio(unique, "gradient cache", "ours"),
        },
        batch=options.batch,
        negatives=options.negatives,
        rounds=options.rounds,
        seconds={"duplicates": medians(with_repeats), "unique": medians(unique)},
        peak_gb={"64": round(small["peak"] / 1e9, 3), "1024": round(large["peak"] / 1e9, 3)},
    )


if __name__ == "__main__":
    main()
