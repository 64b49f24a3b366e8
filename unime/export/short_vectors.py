"""Short vectors: fewer dimensions (Matryoshka), int8, one bit; and what each costs in retrieval.

An export holds `short_vectors.safetensors`: the ranges that int8 needs, for every length, taken on
the training data; and a small retrieval probe (embeddings of held-out pairs), on which the cost of
each kind of vector can be measured without the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from unime.core.errors import ModelError, lookup

if TYPE_CHECKING:
    from unime.data.data_folder import DataFolder
    from unime.models.embedder import Embedder

FILE = "short_vectors.safetensors"
PRECISIONS = ("float32", "int8", "binary")
BITS = {"float32": 32, "int8": 8, "binary": 1}
QUERIES = 200
"""At most so many queries in the probe."""


class CalibrationSet(NamedTuple):
    """Embedded queries and targets, and which target answers which query."""

    queries: Float[np.ndarray, "queries dim"]
    targets: Float[np.ndarray, "targets dim"]
    relevant: Bool[np.ndarray, "queries targets"]


class Cost(NamedTuple):
    """How a kind of short vector does on the probe."""

    dim: int
    precision: str
    bytes: int
    """A vector's size."""
    hit: float
    """Share of queries whose first target is relevant; ties count against it."""
    recall: float
    """Share of queries with a relevant target among the first ten."""


def truncate(vectors: Float[np.ndarray, "rows dim"], dim: int) -> Float[np.ndarray, "rows short"]:
    """Return the first `dim` numbers of each vector, L2-normalised again.

    Raises:
        ModelError: when the vectors have fewer, or none are wanted.
    """
    if not 1 <= dim <= vectors.shape[1]:
        raise ModelError(f"expected a length from 1 to {vectors.shape[1]}, got {dim}")
    short = vectors[:, :dim].astype(np.float32)
    return short / np.linalg.norm(short, axis=1, keepdims=True).clip(1e-12)


def make_probe(embedder: Embedder, data: DataFolder, count: int) -> CalibrationSet:
    """Embed held-out pairs (training pairs where there are none): a fixed choice of rows.

    Args:
        embedder: as trained.
        data: an output of `unime data`.
        count: about so many targets.
    """
    from unime.models.inputs import load_input

    split = data.split("dev")
    rows = split if len(split) else data.split("train")
    rows = rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)]
    pairs = [data.pair(int(row)) for row in rows]

    # A target under two instructions is two vectors; the first of a pair's positives is in.
    targets = dict.fromkeys((pair.positives[0], pair.target_instruction) for pair in pairs)
    asked = pairs[:: max(1, len(pairs) // QUERIES)][:QUERIES]
    queries = [load_input(data, pair.query, "query", pair.query_instruction) for pair in asked]
    documents = [load_input(data, item, "target", instruction) for item, instruction in targets]
    relevant = np.array([[item in pair.positives for item, _ in targets] for pair in asked])
    return CalibrationSet(
        embedder.encode(queries, label="calibration, queries"),
        embedder.encode(documents, label="calibration, targets"),
        relevant,
    )


def save(probe: CalibrationSet, dims: Sequence[int], folder: Path) -> None:
    """Write ranges and probe into an export.

    Args:
        probe: of the trained model.
        dims: the short lengths; the whole one is always among them.
        folder: the export.
    """
    from safetensors.numpy import save_file

    whole = probe.targets.shape[1]
    both = np.concatenate([probe.queries, probe.targets])
    tensors = {
        f"ranges.{dim}": np.stack([short.min(axis=0), short.max(axis=0)])
        for dim in (whole, *dims)
        for short in [truncate(both, dim)]
    }
    tensors["probe.queries"] = probe.queries.astype(np.float16)
    tensors["probe.targets"] = probe.targets.astype(np.float16)
    tensors["probe.relevant"] = probe.relevant.astype(np.uint8)
    save_file(tensors, folder / FILE)


def costs(folder: Path) -> list[Cost]:
    """Measure every length and precision of an export on its probe; none without one.

    Raises:
        ModelError: when the file is damaged.
    """
    if not (folder / FILE).is_file():
        return []
    from safetensors.numpy import load_file

    try:
        tensors = load_file(folder / FILE)
        relevant = tensors["probe.relevant"].astype(bool)
        queries, targets = tensors["probe.queries"], tensors["probe.targets"]
    except Exception as error:  # safetensors raises its own kind, of no public base
        raise ModelError(f"{folder / FILE} is damaged: {error}") from None
    found = []
    for dim in sorted((int(k[7:]) for k in tensors if k.startswith("ranges.")), reverse=True):
        for precision in PRECISIONS:
            scores = similarities(
                truncate(queries, dim), truncate(targets, dim), precision, tensors[f"ranges.{dim}"]
            )
            size = dim * BITS[precision] // 8
            found.append(Cost(dim, precision, size, *_hits(scores, relevant)))
    return found


def similarities(
    queries: Float[np.ndarray, "queries dim"],
    targets: Float[np.ndarray, "targets dim"],
    precision: str,
    ranges: Float[np.ndarray, "2 dim"],
) -> Float[np.ndarray, "queries targets"]:
    """Return the similarities a search over stored targets of some precision would rank by.

    Stored int8 targets are read back and compared with float queries; one-bit vectors are compared
    with each other by the number of equal bits.

    Raises:
        RecipeError: for an unknown precision.
    """
    lookup(BITS, precision, "precision")
    from sentence_transformers.util import quantize_embeddings

    if precision == "float32":
        return queries @ targets.T
    if precision == "int8":
        codes = np.asarray(quantize_embeddings(targets, "int8", ranges=ranges))
        steps = (ranges[1] - ranges[0]) / 255
        return queries @ ((codes.astype(np.float32) + 128.5) * steps + ranges[0]).T
    signs = [np.where(part > 0, np.float32(1), np.float32(-1)) for part in (queries, targets)]
    return signs[0] @ signs[1].T


def probe_size(folder: Path) -> dict[str, int]:
    """Return how many queries and targets an export's probe has."""
    from safetensors import safe_open

    with safe_open(folder / FILE, framework="np") as tensors:
        queries, targets = tensors.get_slice("probe.relevant").get_shape()
    return {"queries": queries, "targets": targets}


def report(found: Sequence[Cost]) -> list[str]:
    """Return the costs as lines of text."""
    if not found:
        return []
    lines = ["short vectors on the retrieval probe, against all of it:"]
    whole = found[0]
    lines += [
        f"  {c.dim:5} dimensions, {c.precision:<8}{c.bytes:6} bytes: hit@1 {c.hit:.3f} "
        f"({c.hit - whole.hit:+.3f}), recall@10 {c.recall:.3f} ({c.recall - whole.recall:+.3f})"
        for c in found
    ]
    return lines


def _hits(
    scores: Float[np.ndarray, "queries targets"], relevant: Bool[np.ndarray, "queries targets"]
) -> tuple[float, float]:
    best = np.where(relevant, scores, -np.inf).max(axis=1)
    above = (~relevant & (scores >= best[:, None])).sum(axis=1)
    return float((above == 0).mean()), float((above < 10).mean())
