"""What a batch tells about training beside its loss; everything is computed without gradient."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unime.losses import ContrastBatch
from unime.train.batch import Prepared

RANKS = (1, 2, 5, 10, 100)
"""Upper ends of the positive-rank histogram's bins."""
MEASURED = ("items_per_second", "tokens_per_second", "data_wait", "peak_memory_gb")
"""Values that differ from run to run."""
SHARPNESS = 20.0
"""Inverse temperature at which negatives are counted by their weight."""
MOST = 1024
"""Embeddings that uniformity looks at, because it looks at all pairs."""


class Telemetry:
    """Collects values between two logs and gives their means, rates and maxima."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = defaultdict(list)
        self._totals: dict[str, float] = defaultdict(float)
        self._since = self._idle_since = time.perf_counter()

    def begin(self, batch: Prepared) -> None:
        """A batch has arrived; the time since the last one ended was spent waiting for it."""
        self._totals["wait"] += time.perf_counter() - self._idle_since
        padded = real = 0
        for chunk in batch.chunks:
            mask = chunk.features.get("attention_mask")
            if mask is not None and len(chunk.places):
                padded, real = padded + mask.numel(), real + int(mask.sum())
        self._totals["tokens"] += real
        self._totals["padded"] += padded
        self._totals["items"] += sum(len(places) for places in batch.gather.places)
        self.add(batch.counts)

    def end(self) -> None:
        """The batch is done with."""
        self._idle_since = time.perf_counter()

    def add(self, values: Mapping[str, float | int | Tensor]) -> None:
        """Add values whose means are logged."""
        for name, value in values.items():
            self._values[name].append(float(value))

    def read(self) -> dict[str, float]:
        """Return everything since the last call; tokens and padding are this process's."""
        now = time.perf_counter()
        seconds, totals = now - self._since, self._totals
        logs = {name: sum(values) / len(values) for name, values in self._values.items()}
        logs["items_per_second"] = totals["items"] / seconds
        logs["tokens_per_second"] = totals["tokens"] / seconds
        logs["padding"] = 1 - totals["tokens"] / totals["padded"] if totals["padded"] else 0.0
        logs["data_wait"] = totals["wait"] / seconds
        logs["peak_memory_gb"] = peak_memory()
        self._values.clear()
        self._totals.clear()
        self._since = now
        return logs


@torch.no_grad()
def describe_contrast(
    batch: ContrastBatch,
    embeddings: Float[Tensor, "encodes dim"],
    pictures: Bool[Tensor, " encodes"],
) -> dict[str, float]:
    """Return how well a batch is told apart, and how its embeddings lie.

    * `rank<=k`: share of queries whose positive is among the k most similar allowed candidates;
    * `effective_negatives`: exp of the entropy of a query's weights on its negatives;
    * `alignment`, `uniformity`: Wang and Isola 2020 (arXiv 2005.10242), with t = 2;
    * `modality_gap`: distance between the means of pictures and of plain texts
      (Liang et al. 2022, arXiv 2203.02053).

    Args:
        batch: the loss's record.
        embeddings: all distinct ones.
        pictures: which of them are of inputs with a picture.
    """
    similarity = batch.query @ batch.candidates.T
    own = similarity.gather(1, batch.positive[:, None])
    rank = 1 + (batch.allowed & (similarity >= own)).sum(dim=1)
    logits = (SHARPNESS * similarity).masked_fill(~batch.allowed, -torch.inf)
    some = batch.allowed.any(dim=1)
    weights = torch.softmax(logits[some], dim=1)
    entropy = -(weights * weights.clamp_min(1e-30).log()).sum(dim=1)
    values = {f"rank<={k}": (rank <= k).double().mean() for k in RANKS}
    values["effective_negatives"] = entropy.exp().sum() / len(batch.query)
    values["alignment"] = (batch.query - batch.candidates[batch.positive]).square().sum(1).mean()
    sample = embeddings[torch.linspace(0, len(embeddings) - 1, min(MOST, len(embeddings))).long()]
    if len(sample) > 1:
        values["uniformity"] = torch.pdist(sample.float()).square().mul(-2).exp().mean().log()
    pictures = pictures.to(embeddings.device)
    if pictures.any() and not pictures.all():
        gap = embeddings[pictures].mean(0) - embeddings[~pictures].mean(0)
        values["modality_gap"] = gap.norm()
    return {name: float(value) for name, value in values.items() if math.isfinite(value)}


def peak_memory() -> float:
    """Return the peak in GB: of the GPU since the start, or of the process without one."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    from unime.core.provenance import peak_gb

    return peak_gb()
