"""MMEB-eval's layout: Parquet, one row a query with its own list of candidates, hit@1.

Columns `qry_text, qry_img_path, tgt_text, tgt_img_path` (the last two lists, gold first); or with
the instructions apart in `qry_inst` and `tgt_inst`. Beyond the published columns, `tgt_kind` may
name each distractor's kind. Read column by column: a benchmark has millions of list entries but
few distinct candidates. Sources: TIGER-Lab/MMEB-eval, ziyjiang/MMEB_Test_Instruct.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from unime.core.errors import DataError
from unime.data.readers.instructions import PLACEHOLDER, Instructions, Known, known_tasks
from unime.eval import metrics
from unime.eval.benchmark import TaskSpec
from unime.eval.pool import Pool, Side
from unime.eval.scores import KindScore, TaskScores, first_gold, ranking_columns, score_lists
from unime.eval.similarity import Similarities

METRICS: tuple[str, ...] = ("hit@1",)
AT = (1, 5, 10)
REQUIRED = ("qry_text", "qry_img_path", "tgt_text", "tgt_img_path")
OPTIONAL = ("qry_inst", "tgt_inst", "tgt_kind")


@dataclass(frozen=True)
class CandidateLists:
    """Queries with a list of candidates each; `queries` and `candidates` are rows of the pool."""

    name: str
    queries: np.ndarray
    """(n,) int32."""
    candidates: np.ndarray
    """(m,) int32, the task's distinct candidates."""
    position: np.ndarray
    """(total,) int32: all lists end to end, as indices into `candidates`."""
    offsets: np.ndarray
    """(n + 1,) int64: where each list starts."""
    gold: np.ndarray
    """(total,) bool: every entry with the content of a right answer, wherever it stands."""
    kinds: np.ndarray | None = None
    """(total,) int16 into `kind_names`."""
    kind_names: tuple[str, ...] = ()

    @property
    def encodes_without_sharing(self) -> int:
        """Queries and all list entries."""
        return len(self.queries) + len(self.position)

    def relevance(self) -> Iterator[tuple[str | int, int, float]]:
        """Yield (query, row of its right answer, 1)."""
        gold = self.candidates[self.position[first_gold(self.gold, self.offsets)]]
        yield from ((query, int(row), 1.0) for query, row in enumerate(gold))

    def score(self, similarities: Similarities) -> TaskScores:
        """Rank every query's list."""
        values = similarities.listed(self.queries, self.candidates, self.position, self.offsets)
        hits, columns = score_lists(values, self.gold, self.offsets, AT)
        missed = ~hits["hit@1"]
        winner = np.where(missed, columns["strongest_wrong"], -1)
        by_kind = {}
        if self.kinds is not None:
            by_kind = self._score_kinds(values, columns["gold_similarity"], winner)
        return TaskScores(
            values=hits["hit@1"],
            metrics={f"hit@{k}": float(hits[f"hit@{k}"].mean()) for k in AT},
            expected=float(hits["expected"].mean()),
            chance={
                f"hit@{k}": float(metrics.chance_hit_at(self.gold, self.offsets, k).mean())
                for k in AT
            },
            per_query=self._table(hits["hit@1"], columns, winner),
            by_kind=by_kind,
        )

    def _table(
        self, hit: np.ndarray, columns: dict[str, np.ndarray], winner: np.ndarray
    ) -> pa.Table:
        top = columns["top"]
        top_rows = np.where(top >= 0, self.candidates[self.position[top]], -1)
        gold = self.candidates[self.position[first_gold(self.gold, self.offsets)]]
        table = {
            "query": np.arange(len(self.queries), dtype=np.int32),
            "hit": hit,
            "value": hit.astype(np.float64),
            **{
                name: columns[name]
                for name in ("rank", "tied", "gold_similarity", "wrong_similarity")
            },
            # The place in the query's own list, -1 where the gold candidate won.
            "winner": np.where(winner >= 0, winner - self.offsets[:-1], -1).astype(np.int32),
            **ranking_columns(self.queries, gold, top_rows, columns["top_similarity"]),
        }
        if self.kinds is not None:
            names = np.array([*self.kind_names, ""], dtype=object)
            table["winner_kind"] = names[np.where(winner >= 0, self.kinds[winner], -1)]
        return pa.table(table)

    def _score_kinds(
        self, similarities: np.ndarray, gold_similarity: np.ndarray, winner: np.ndarray
    ) -> dict[str, KindScore]:
        assert self.kinds is not None
        result = {}
        for code, name in enumerate(self.kind_names):
            of_kind = (self.kinds == code) & ~self.gold
            best = np.maximum.reduceat(np.where(of_kind, similarities, -np.inf), self.offsets[:-1])
            has = np.isfinite(best)
            if has.any():
                result[name] = KindScore(
                    hit=float((gold_similarity[has] > best[has]).mean()),
                    queries=int(has.sum()),
                    won=int((self.kinds[winner[winner >= 0]] == code).sum()),
                )
        return result


def read(spec: TaskSpec, pool: Pool) -> CandidateLists:
    """Read one task."""
    given = Known(
        query=tuple(filter(None, [spec.definition.query_instruction])),
        target=tuple(filter(None, [spec.definition.target_instruction])),
    )
    splitter = Instructions(known_tasks([spec.root]), given)
    table = _read_table(spec.paths(), spec.limit)
    images = spec.images.format(task=spec.name)
    reader = _Reader(spec.name, table, spec.root, images, splitter, pool)
    try:
        task = reader.parse()
    except DataError as error:
        raise DataError(f"{spec.benchmark}, task {spec.name}: {error}") from None
    splitter.report()
    return task


def _read_table(paths: Sequence[Path], limit: int | None) -> pa.Table:
    tables = []
    for path in paths:
        try:
            columns = pq.read_schema(path).names
            missing = [name for name in REQUIRED if name not in columns]
            if missing:
                raise DataError(
                    f"{path} has no column {', '.join(missing)}; expected MMEB-eval's columns "
                    f"{', '.join(REQUIRED)}, got {', '.join(columns)}"
                )
            wanted = [*REQUIRED, *(name for name in OPTIONAL if name in columns)]
            tables.append(pq.read_table(path, columns=wanted, memory_map=True))
        except pa.ArrowInvalid as error:
            raise DataError(f"{path} is not a readable Parquet file: {error}") from None
    table = pa.concat_tables(tables).slice(0, limit)
    if not table.num_rows:
        raise DataError(f"{', '.join(map(str, paths))}: no queries")
    return table


@dataclass(frozen=True)
class _Reader:
    """Turns one task's table into index arrays."""

    name: str
    table: pa.Table
    root: Path
    images: str
    instructions: Instructions
    pool: Pool

    def parse(self) -> CandidateLists:
        lengths = self._lengths()
        offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        texts = self._entries("tgt_text", lengths)
        pictures = self._entries("tgt_img_path", lengths)
        instructions = self._column("tgt_inst")
        if instructions is not None:
            owner = pa.array(np.repeat(np.arange(len(lengths)), lengths))
            instructions = instructions.take(owner)
        entries = self._items("target", texts, pictures, instructions)
        candidates, position = _distinct(entries)
        # The gold candidate comes first in these files; whatever equals its content is gold too.
        gold = position == np.repeat(position[offsets[:-1]], lengths)
        queries = self._items(
            "query",
            self._column("qry_text"),
            self._column("qry_img_path"),
            self._column("qry_inst"),
        )
        kinds, kind_names = self._kinds(lengths)
        return CandidateLists(
            self.name, queries, candidates, position, offsets, gold, kinds, kind_names
        )

    def _column(self, name: str) -> pa.Array | None:
        """Return a text column, None if the data has none; some files hold lists of one in it."""
        if name not in self.table.column_names:
            return None
        column = self.table[name].combine_chunks()
        if _is_list(column.type):
            return self._entries(name, np.ones(len(column), dtype=np.int64))
        return _as_text(column, name)

    def _lengths(self) -> np.ndarray:
        """Return (n,) how many candidates each query has."""
        lengths = np.maximum(
            _own_lengths(self.table["tgt_text"]), _own_lengths(self.table["tgt_img_path"])
        )
        if (lengths == 0).any():
            raise DataError(f"row {int(np.argmin(lengths))} has no candidates")
        return lengths

    def _entries(self, name: str, lengths: np.ndarray) -> pa.Array:
        """Return a list column end to end; an empty list stands for none at all."""
        column = self.table[name].combine_chunks()
        own = _own_lengths(column)
        wrong = np.flatnonzero((own != lengths) & (own != 0))
        if len(wrong):
            raise DataError(
                f"row {wrong[0]}: {own[wrong[0]]} entries in {name} for {lengths[wrong[0]]} "
                "candidates; expected one for each"
            )
        flat = column.flatten() if _is_list(column.type) else column.filter(pa.array(own > 0))
        there = np.repeat(own > 0, lengths)
        places = np.cumsum(there) - 1
        return _as_text(flat, name).take(pa.array(places, mask=~there))

    def _items(
        self,
        side: Side,
        texts: pa.Array | None,
        pictures: pa.Array | None,
        instructions: pa.Array | None,
    ) -> np.ndarray:
        """Return (n,) pool rows of n items; work is done for distinct items only."""
        codes, columns = _distinct_rows([texts, pictures, instructions])
        contents, given = [], []
        for text, instruction in zip(columns[0], columns[2], strict=True):
            if instructions is not None:
                given.append(" ".join(PLACEHOLDER.sub("", instruction).split()))
                contents.append(PLACEHOLDER.sub("", text).strip())
            else:
                split = self.instructions.split(text, self.name, side)
                given.append(split[0])
                contents.append(split[1])
        below = f"{self.images.rstrip('/')}/" if self.images else ""
        rows = self.pool.add(
            contents,
            [f"{below}{location}" if location else None for location in columns[1]],
            given,
            root=self.root,
            side=side,
        )
        return rows[codes]

    def _kinds(self, lengths: np.ndarray) -> tuple[np.ndarray | None, tuple[str, ...]]:
        if "tgt_kind" not in self.table.column_names:
            return None, ()
        column = self._entries("tgt_kind", lengths).fill_null("")
        encoded = column.dictionary_encode()
        return encoded.indices.to_numpy().astype(np.int16), tuple(encoded.dictionary.to_pylist())


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _as_text(column: pa.Array, name: str) -> pa.Array:
    if pa.types.is_null(column.type) or pa.types.is_dictionary(column.type):
        return column.cast(pa.string())
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise DataError(f"column {name} holds {column.type}, expected text")
    return column


def _own_lengths(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Return (n,) list lengths; a bare text is a list of one, or of none if it is empty."""
    name = "list_value_length" if _is_list(column.type) else "binary_length"
    own = pc.call_function(name, [column]).fill_null(0).to_numpy().astype(np.int64)
    return own if _is_list(column.type) else np.minimum(own, 1)


def _distinct_rows(columns: Sequence[pa.Array | None]) -> tuple[np.ndarray, list[list[str]]]:
    """Return each row's number among the distinct rows, and the distinct rows' columns.

    A missing column or value counts as the empty string.
    """
    length = next(len(column) for column in columns if column is not None)
    combined = np.zeros(length, dtype=np.int64)
    dictionaries = []
    for column in columns:
        if column is None:
            dictionaries.append([""])
            continue
        encoded = column.fill_null("").dictionary_encode()
        dictionaries.append(encoded.dictionary.to_pylist())
        combined = combined * len(dictionaries[-1]) + encoded.indices.to_numpy()
    encoded = pa.array(combined).dictionary_encode()
    rest = encoded.dictionary.to_numpy().copy()
    values: list[list[str]] = []
    for dictionary in reversed(dictionaries):
        rest, code = np.divmod(rest, len(dictionary))
        values.insert(0, [dictionary[index] for index in code])
    return encoded.indices.to_numpy(), values


def _distinct(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return distinct rows and each entry's index into them; hashing beats sorting millions."""
    encoded = pa.array(rows).dictionary_encode()
    return encoded.dictionary.to_numpy().copy(), encoded.indices.to_numpy().copy()
