"""Exact top-k over a whole corpus, block by block, in bounded memory and with stable ties."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

QUERY_BLOCK = 2048
CORPUS_BLOCK = 4096

GROUP = 32
"""Corpus rows whose largest similarity alone is compared with the k-th best so far."""
NO_KEY = torch.iinfo(torch.int64).min
LAST_ROW = 2**31 - 1
TIE = 1e-6
"""Two fp32 products of the same vectors can differ by this much between block shapes."""


class Exclusion(NamedTuple):
    """Which corpus rows may not be candidates of which queries, one entry a forbidden pair."""

    queries: Int[np.ndarray, " forbidden"]
    rows: Int[np.ndarray, " forbidden"]

    @classmethod
    def of(cls, excluded: Sequence[Sequence[int]]) -> Exclusion:
        """Build it from one list of corpus rows per query."""
        lengths = [len(rows) for rows in excluded]
        rows = [row for one in excluded for row in one]
        return cls(
            np.repeat(np.arange(len(excluded)), lengths).astype(np.int64),
            np.array(rows, dtype=np.int64),
        )


class _Block(NamedTuple):
    """Similarities of a block of queries to a block of the corpus; a forbidden pair has -inf.

    Every block overwrites the one before: fresh memory for each costs as much as the products.
    """

    first_row: int
    similarities: Float[Tensor, "block_queries block_rows"]


def exact_topk(
    queries: Float[np.ndarray, "queries dim"],
    corpus: Float[np.ndarray, "corpus dim"],
    k: int,
    exclude: Sequence[Sequence[int]] | None = None,
    ceilings: Float[np.ndarray, " queries"] | None = None,
    *,
    query_block: int = QUERY_BLOCK,
    corpus_block: int = CORPUS_BLOCK,
    device: torch.device | str = "cpu",
) -> tuple[Int[np.ndarray, "queries k"], Float[np.ndarray, "queries k"]]:
    """Return each query's k most similar corpus rows by dot product, best first.

    Equal similarities are ordered by corpus row. Memory is bounded by one block of similarities
    (`query_block * corpus_block` numbers, twice over); both inputs may be memory-mapped
    and of any float type, products are taken in fp32.

    Args:
        queries: one embedding a query.
        corpus: one embedding a corpus row.
        k: how many rows to return.
        exclude: per query, the corpus rows that may not be returned.
        ceilings: per query, the similarity above which a row may not be returned.
        query_block: queries at a time.
        corpus_block: corpus rows at a time.
        device: where products are taken.

    Returns:
        Rows (-1 where fewer than k are admissible) and similarities (-inf there).
    """
    exclusion = Exclusion.of(exclude if exclude is not None else [[]] * len(queries))
    rows = np.full((len(queries), k), -1, dtype=np.int64)
    similarities = np.full((len(queries), k), -np.inf, dtype=np.float32)
    buffer = torch.empty(query_block * corpus_block, device=device)
    for start in range(0, len(queries), query_block):
        chosen = slice(start, min(start + query_block, len(queries)))
        best = torch.empty((chosen.stop - start, 0), dtype=torch.int64, device=device)
        for block in _blocks(queries, corpus, exclusion, chosen, corpus_block, buffer):
            scores = block.similarities
            if ceilings is not None:
                ceiling = torch.as_tensor(ceilings[chosen], dtype=torch.float32, device=device)
                scores = scores.masked_fill(scores > ceiling[:, None], -torch.inf)
            best = _merge(best, scores, block.first_row, k)
        found = slice(0, best.shape[1])
        rows[chosen, found], similarities[chosen, found] = _read_keys(best)
    rows[np.isneginf(similarities)] = -1
    return rows, similarities


def exact_ranks(
    queries: Float[np.ndarray, "queries dim"],
    corpus: Float[np.ndarray, "corpus dim"],
    targets: Int[np.ndarray, " queries"],
    exclude: Sequence[Sequence[int]] | None = None,
    *,
    query_block: int = QUERY_BLOCK,
    corpus_block: int = CORPUS_BLOCK,
    device: torch.device | str = "cpu",
) -> tuple[Int[np.ndarray, " queries"], Float[np.ndarray, " queries"]]:
    """Return the rank of one corpus row for each query, and its similarity.

    Rank 1 is best; an admissible row as similar as the target (within `TIE`) stands before it,
    so a model that cannot tell two contents apart gains nothing.

    Args:
        queries: one embedding a query.
        corpus: one embedding a corpus row.
        targets: per query, the corpus row whose rank is asked.
        exclude: per query, the corpus rows that are not counted (the target never counts).
        query_block: queries at a time.
        corpus_block: corpus rows at a time.
        device: where products are taken.
    """
    exclusion = Exclusion.of(exclude if exclude is not None else [[]] * len(queries))
    ranks = np.ones(len(queries), dtype=np.int64)
    similarities = np.empty(len(queries), dtype=np.float32)
    buffer = torch.empty(query_block * corpus_block, device=device)
    for start in range(0, len(queries), query_block):
        chosen = slice(start, min(start + query_block, len(queries)))
        own = _on(queries[chosen], device) * _on(corpus[targets[chosen]], device)
        threshold = own.sum(dim=1)
        similarities[chosen] = threshold.cpu().numpy()
        target = torch.as_tensor(targets[chosen], device=device)[:, None]
        for block in _blocks(queries, corpus, exclusion, chosen, corpus_block, buffer):
            columns = torch.arange(block.similarities.shape[1], device=device) + block.first_row
            ahead = (block.similarities >= threshold[:, None] - TIE) & (columns != target)
            ranks[chosen] += ahead.sum(dim=1).cpu().numpy()
    return ranks, similarities


def _blocks(
    queries: np.ndarray,
    corpus: np.ndarray,
    exclusion: Exclusion,
    chosen: slice,
    corpus_block: int,
    buffer: Float[Tensor, " numbers"],
) -> Iterator[_Block]:
    """Yield the similarities of one block of queries to the corpus, block by block."""
    device = buffer.device
    block_queries = _on(queries[chosen], device)
    assert block_queries.isfinite().all(), f"NaN among the embeddings near query {chosen.start}"
    mine = (exclusion.queries >= chosen.start) & (exclusion.queries < chosen.stop)
    forbidden_queries, forbidden_rows = exclusion.queries[mine], exclusion.rows[mine]
    for first in range(0, len(corpus), corpus_block):
        block_corpus = _on(corpus[first : first + corpus_block], device)
        # NaN would sort as the best candidate of all. Looked for once, in the first pass.
        assert chosen.start or block_corpus.isfinite().all(), (
            f"NaN among the embeddings near corpus row {first}"
        )
        shape = (len(block_queries), len(block_corpus))
        similarities = buffer[: shape[0] * shape[1]].view(shape)
        torch.mm(block_queries, block_corpus.T, out=similarities)
        here = (forbidden_rows >= first) & (forbidden_rows < first + len(block_corpus))
        similarities[
            torch.as_tensor(forbidden_queries[here] - chosen.start, device=device),
            torch.as_tensor(forbidden_rows[here] - first, device=device),
        ] = -torch.inf
        yield _Block(first, similarities)


def _merge(
    best: Int[Tensor, "queries found"],
    similarities: Float[Tensor, "queries rows"],
    first_row: int,
    k: int,
) -> Int[Tensor, "queries most"]:
    """Return the keys of the k best among those found before and a block, best first.

    The block is read once, for the largest similarity of every `GROUP` rows; only groups whose largest
    reaches the k-th best so far are looked at again: of a large corpus next to nothing. Before there
    are k, the k-th largest group maximum takes its place: k rows are at least as similar.
    """
    group = GROUP if similarities.shape[1] >= GROUP * k else 1
    padding = -similarities.shape[1] % group
    if padding:
        similarities = functional.pad(similarities, (0, padding), value=-torch.inf)
    groups = similarities.unflatten(1, (-1, group))
    maxima = groups.amax(dim=2)
    if best.shape[1] == k:
        floor = _similarity_of(best[:, -1:])
    elif maxima.shape[1] >= k:
        floor = maxima.topk(k, dim=1).values[:, -1:]
    else:
        floor = maxima.new_full((len(maxima), 1), -torch.inf)
    # Flat numbers and whole groups: several times as fast as indexing by row and column.
    passing = (maxima >= floor).flatten().nonzero().squeeze(1)
    query = passing.div(maxima.shape[1], rounding_mode="floor")
    members = groups.reshape(-1, group).index_select(0, passing)
    hit, place = (members >= floor.squeeze(1)[query, None]).nonzero(as_tuple=True)
    values = members[hit, place]
    query, column = query[hit], passing[hit] % maxima.shape[1] * group + place
    counts = torch.bincount(query, minlength=len(best))
    found = best.new_full((len(best), int(counts.max())), NO_KEY)
    place = torch.arange(len(query), device=query.device) - (counts.cumsum(0) - counts)[query]
    found[query, place] = _keys(values, column + first_row)
    keys = torch.cat([best, found], dim=1)
    return keys.topk(min(k, keys.shape[1]), dim=1).values


def _keys(
    similarities: Float[Tensor, "*shape"], rows: Int[Tensor, "*shape"]
) -> Int[Tensor, "*shape"]:
    """Return one integer per entry that sorts by similarity, then by lower corpus row.

    torch.topk orders equal values as it likes; distinct integers leave it no choice. The upper
    half is the float's bits, made to sort like the float; the lower half counts rows down.
    """
    # Adding 0.0 turns -0.0, whose bits differ, into 0.0.
    bits = (similarities + 0.0).view(torch.int32)
    ordered = (bits ^ ((bits >> 31) & LAST_ROW)).to(torch.int64)
    return (ordered << 32) | (LAST_ROW - rows)


def _similarity_of(keys: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    ordered = (keys >> 32).to(torch.int32)
    return (ordered ^ ((ordered >> 31) & LAST_ROW)).view(torch.float32)


def _read_keys(keys: Int[Tensor, "queries k"]) -> tuple[np.ndarray, np.ndarray]:
    """Return corpus rows and similarities of keys made by `_keys`."""
    rows = LAST_ROW - (keys & LAST_ROW)
    return rows.cpu().numpy(), _similarity_of(keys).cpu().numpy()


def _on(embeddings: np.ndarray, device: torch.device | str) -> Float[Tensor, "rows dim"]:
    if embeddings.dtype == np.float32 and embeddings.flags.writeable:
        return torch.from_numpy(embeddings).to(device)
    # np.array copies: torch refuses to share a read-only memory map.
    return torch.from_numpy(np.array(embeddings, dtype=np.float32)).to(device)
