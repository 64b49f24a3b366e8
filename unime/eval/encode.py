"""Encoding a pool with one model: every distinct encode once, in blocks that survive a kill."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np

from unime.core import console
from unime.core.errors import ModelError, UnimeError
from unime.data.items import encode_id
from unime.eval.embedding_cache import EmbeddingStore
from unime.eval.pool import Pool
from unime.eval.similarity import check_embeddings

if TYPE_CHECKING:
    from unime.eval.encoders.registry import Encoder, ModelEntry
    from unime.models.inputs import ModelInput

BLOCK = 2048
"""Encodes a block: what a killed run has to do again at most, and how many pictures lie decoded."""


def load_encoder(entry: ModelEntry, device: str | None = None) -> Encoder:
    """Load a model under evaluation."""
    return entry.load(device)


def encode_ids(pool: Pool, key: str) -> list[bytes]:
    """Return each pool entry's identity as an encoding by the model of this key."""
    return [encode_id(entry.content, entry.side, entry.instruction, key) for entry in pool.entries]


def encode_pool(
    entry: ModelEntry, pool: Pool, cache: Path, matrix: Path, batch_size: int, processes: int
) -> tuple[np.ndarray, int]:
    """Return the embeddings of all inputs of a pool, and how many were not in the cache.

    Args:
        entry: the model.
        pool: the distinct inputs.
        cache: folder of all models' caches.
        matrix: where the embeddings of this pool are put together, a file that is memory-mapped.
        batch_size: how many the model encodes at once.
        processes: how many encode at the same time, each with a model (and a GPU) of its own.

    Raises:
        ModelError: when an embedding is not finite or not of length 1.
    """
    from unime.eval.encoders.precomputed import Precomputed

    ids = encode_ids(pool, entry.key)
    work = _Work(entry, pool, ids, EmbeddingStore(cache / entry.key), batch_size)
    if entry.kind == "embeddings":
        model = load_encoder(entry)
        assert isinstance(model, Precomputed), type(model)
        return model.look_up(encode_ids(pool, "")), 0
    known = work.store.known()
    order = by_kind_and_length(pool)
    missing = order[np.array([ids[row] not in known for row in order], dtype=bool)]
    if len(missing) < len(order):
        console.log(f"{entry.name}: {len(order) - len(missing)} of {len(order)} inputs are cached")
    if processes > 1 and len(missing) > batch_size:
        _in_processes(work, missing, processes)
    elif len(missing):
        _encode_blocks(work, _cut(missing, BLOCK))
    return work.store.fill(ids, matrix), len(missing)


class _Work(NamedTuple):
    """What one model has to encode, wherever it does so."""

    entry: ModelEntry
    pool: Pool
    ids: list[bytes]
    store: EmbeddingStore
    batch_size: int


def _cut(rows: np.ndarray, size: int) -> list[np.ndarray]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _encode_blocks(work: _Work, blocks: Sequence[np.ndarray], device: str | None = None) -> None:
    encoder = load_encoder(work.entry, device)
    name, entries = work.entry.name, work.pool.entries
    total, done = sum(map(len, blocks)), 0
    for rows in blocks:
        label = f"{name}: inputs {done + 1} to {done + len(rows)} of {total}"
        lazy = LazyInputs(work.pool, rows)
        values = encoder.encode(lazy, batch_size=work.batch_size, label=label)
        values = np.asarray(values, dtype=np.float32)
        assert len(values) == len(rows), (values.shape, len(rows))
        check_embeddings(values, name, lambda row, rows=rows: str(entries[rows[row]]))
        work.store.add([work.ids[row] for row in rows], values)
        done += len(rows)


def _in_processes(work: _Work, missing: np.ndarray, processes: int) -> None:
    """Deal the blocks out to processes; each loads the model and writes what it has encoded."""
    import torch

    name = work.entry.name
    # Small enough that all end together.
    blocks = _cut(missing, max(work.batch_size, min(BLOCK, -(-len(missing) // (4 * processes)))))
    context = multiprocessing.get_context("spawn")
    failures = context.SimpleQueue()
    gpus = torch.cuda.device_count()
    threads = max(1, torch.get_num_threads() // processes)
    console.log(f"{name}: {len(missing)} inputs in {processes} processes")
    workers = []
    for number in range(processes):
        device = f"cuda:{number % gpus}" if gpus else None
        arguments = (work, blocks[number::processes], device, threads, failures)
        workers.append(context.Process(target=_worker, args=arguments))
        workers[-1].start()
    try:
        for worker in workers:
            worker.join()
    except BaseException:
        # The interpreter would wait for them at its end.
        for worker in workers:
            worker.terminate()
        raise
    if not failures.empty():
        raise ModelError(failures.get())
    broken = [worker.exitcode for worker in workers if worker.exitcode]
    if broken:
        raise ModelError(
            f"{name}: {len(broken)} of {processes} encoding processes died (exit code "
            f"{broken[0]}); what is encoded is kept, try with fewer processes"
        )


def _worker(
    work: _Work,
    blocks: Sequence[np.ndarray],
    device: str | None,
    threads: int,
    failures: Any,
) -> None:
    import torch

    torch.set_num_threads(threads)
    console.start_logging()
    try:
        _encode_blocks(work, blocks, device)
    except UnimeError as error:
        failures.put(str(error))


class LazyInputs(Sequence["ModelInput"]):
    """Encodes whose pictures are decoded when they are asked for."""

    def __init__(self, pool: Pool, rows: np.ndarray) -> None:
        self._pool = pool
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, place: int) -> ModelInput: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[ModelInput]: ...

    def __getitem__(self, place: int | slice) -> ModelInput | Sequence[ModelInput]:
        if isinstance(place, slice):
            return [self[index] for index in range(len(self))[place]]
        return self._pool.encode(int(self._rows[place]))


def by_kind_and_length(pool: Pool) -> np.ndarray:
    """Return all rows, alike ones together: blocks then hold batches with little padding."""
    keys = [
        (entry.image is not None, len(entry.instruction) + len(entry.text), row)
        for row, entry in enumerate(pool.entries)
    ]
    return np.array([row for _, _, row in sorted(keys)], dtype=np.int64)
