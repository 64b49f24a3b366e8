"""What is to be scored: the pairs of a mined table, grouped by query, each distinct pair once."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Int64
from PIL import Image

from unime.core.errors import RecipeError
from unime.data import images
from unime.data.data_folder import DataFolder
from unime.data.items import pair_key
from unime.data.pixels import ORIENTATION, as_png
from unime.data.tables import JUDGED
from unime.judge.engine import ImageBytes, JudgeInput, Request
from unime.judge.store import ScoreStore


class Shard(NamedTuple):
    """One of several parts of a job; a query's pairs are all in one part."""

    number: int
    """From 0."""
    of: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read "i/n".

        Raises:
            RecipeError: when it is no such thing.
        """
        number, _, of = text.partition("/")
        if not (number.isdecimal() and of.isdecimal() and int(number) < int(of)):
            raise RecipeError(f"--shard {text}: expected i/n with i from 0 to n - 1, such as 0/4")
        return cls(int(number), int(of))


WHOLE = Shard(0, 1)


class MinedRow(NamedTuple):
    """One row of the mined table: its pair, and item rows."""

    pair: int
    candidates: list[int]


class JudgeJob:
    """The pairs to be scored: for each mined row its positive, then its candidates."""

    def __init__(
        self, data: DataFolder, mined: pa.Table, fingerprint: str, shard: Shard = WHOLE
    ) -> None:
        self.data = data
        self.mined = mined
        self.fingerprint = fingerprint
        self._shard = shard

    def row(self, number: int) -> MinedRow:
        """Return one mined row."""
        return MinedRow(int(self._pairs[number]), self._candidates[number].as_py())

    def distinct(self) -> int:
        """Return how many distinct pairs there are."""
        return sum(
            len({key for number in group.tolist() for key in self.keys(number)})
            for group in self.groups
        )

    @cached_property
    def groups(self) -> list[Int64[np.ndarray, " rows"]]:
        """The mined rows of each distinct query of this shard, in the table's order.

        Rows of one query under one instruction share pairs; rows of different ones never do.
        """
        table = self.data.pairs.select(["query", "query_instruction"]).take(self.mined["pair"])
        queries = table["query"].to_numpy()
        instructions = table["query_instruction"].combine_chunks()
        if isinstance(instructions, pa.ChunkedArray):
            instructions = instructions.unify_dictionaries().combine_chunks()
        codes = instructions.cast(pa.large_string()).dictionary_encode().indices.to_numpy()
        names = queries.astype(np.int64) * (int(codes.max(initial=0)) + 1) + codes
        mine = np.flatnonzero(self._of_shard(queries))
        _, first, group = np.unique(names[mine], return_index=True, return_inverse=True)
        # By first appearance, so that what a budget reaches is the table's beginning.
        place = np.empty(len(first), dtype=np.int64)
        place[np.argsort(first)] = np.arange(len(first))
        order = np.argsort(place[group], kind="stable")
        ends = np.flatnonzero(np.diff(place[group][order])) + 1
        return np.split(mine[order], ends) if len(mine) else []

    def requests(self, group: Sequence[int] | Int64[np.ndarray, " rows"]) -> list[Request]:
        """Return the distinct requests of a group: positives first, then candidates as mined."""
        rows = [self.row(int(number)) for number in group]
        pair = self.data.pair(rows[0].pair)
        query = self.content(pair.query)
        items = [self.data.pair(row.pair).positives[0] for row in rows]
        items += [item for row in rows for item in row.candidates]
        return [
            Request(
                self._key(query.id, pair.query_instruction, item),
                pair.task,
                pair.query_instruction,
                query,
                self.content(item),
            )
            for item in dict.fromkeys(items)
        ]

    def keys(self, number: int) -> list[bytes]:
        """Return the pair keys of one mined row, the positive's first."""
        row = self.row(number)
        pair = self.data.pair(row.pair)
        query = self.data.items.content_id(pair.query)
        items = (pair.positives[0], *row.candidates)
        return [self._key(query, pair.query_instruction, item) for item in items]

    def judged_table(self, store: ScoreStore) -> pa.Table:
        """Return the scores of all rows (schema JUDGED), NaN where unscored."""
        positives = np.empty(self.mined.num_rows, dtype=np.float32)
        scores: list[np.ndarray] = []
        for number in range(self.mined.num_rows):
            values = store.find(self.keys(number)).values
            positives[number] = values[0]
            scores.append(values[1:].astype(np.float16))
        offsets = np.cumsum([0, *(len(values) for values in scores)]).astype(np.int32)
        flat = np.concatenate([np.empty(0, np.float16), *scores])
        lists = pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat))
        return pa.Table.from_arrays(
            [self.mined["pair"].combine_chunks(), pa.array(positives), lists], schema=JUDGED
        )

    def unscored(self, store: ScoreStore) -> Iterator[dict[str, object]]:
        """Yield what has no score, once for every row it is missing in."""
        for number in range(self.mined.num_rows):
            keys = self.keys(number)
            if not np.isnan(store.find(keys).values).any():
                continue
            row = self.row(number)
            items = [self.data.pair(row.pair).positives[0], *row.candidates]
            reasons = store.reasons(keys)
            for item, key in zip(items, keys, strict=True):
                if key in reasons:
                    yield {"pair": row.pair, "item": item, "reason": reasons[key]}

    def _of_shard(self, queries: np.ndarray) -> np.ndarray:
        number, of = self._shard
        ids = self.data.items.content_ids[queries][:, :8]
        return np.ascontiguousarray(ids).view("<u8")[:, 0] % np.uint64(of) == number

    def _key(self, query: bytes, instruction: str, item: int) -> bytes:
        candidate = self.data.items.content_id(item)
        return pair_key(query, instruction, candidate, self.fingerprint)

    def count_unscored(self, store: ScoreStore) -> tuple[int, int]:
        """Return how many distinct pairs failed, and how many were never asked about."""
        aside = unasked = 0
        for group in self.groups:
            keys = list({key for number in group.tolist() for key in self.keys(number)})
            found = store.find(keys)
            aside += int((found.known & np.isnan(found.values)).sum())
            unasked += int((~found.known).sum())
        return aside, unasked

    def has_score(self, store: ScoreStore) -> bool:
        """Tell whether any pair has a score."""
        keys = (
            [key for number in group.tolist() for key in self.keys(number)] for group in self.groups
        )
        return any((~np.isnan(store.find(one).values)).any() for one in keys)

    def content(self, row: int) -> JudgeInput:
        """Return an item as a judge sees it."""
        items = self.data.items
        item = items.item(row)
        if item.image is None:
            return JudgeInput(items.content_id(row), item.text)
        return JudgeInput(
            items.content_id(row),
            item.text,
            partial(self._image, row),
            int(self._pixels[row]),
            partial(self._picture, row),
        )

    def _image(self, row: int) -> Image.Image:
        image = self.data.load_image(row)
        assert image is not None, row
        return image

    def _picture(self, row: int) -> ImageBytes:
        data = self.data.image_bytes(row)
        assert data is not None, row
        return as_sent(data, str(self.data.items.item(row).image))

    @cached_property
    def _pixels(self) -> np.ndarray:
        return self.data.items.sizes(range(len(self.data.items)))

    @cached_property
    def _pairs(self) -> np.ndarray:
        return self.mined["pair"].to_numpy()

    @cached_property
    def _candidates(self) -> pa.Array:
        return self.mined["candidates"].combine_chunks()


PLAIN = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}


def as_sent(data: bytes, location: str) -> ImageBytes:
    """Return an image file's bytes as a server gets them.

    Raises:
        ImageError: when it is damaged or too large.
    """
    media_type = _plain_type(data)
    if media_type is not None:
        return ImageBytes(media_type, data)
    return ImageBytes("image/png", as_png(images.decode(data, location)))


def _plain_type(data: bytes) -> str | None:
    """Return the media type of an upright RGB file of moderate size, else None; reads its head."""
    try:
        image = Image.open(io.BytesIO(data), formats=tuple(PLAIN))
        # Any value but 1, a damaged one too, is one that a server may take in its own way.
        upright = image.getexif().get(ORIENTATION, 1) == 1
        moves = getattr(image, "is_animated", False)
    except Exception:
        return None  # whatever is wrong with it, decoding says so
    plain = image.mode in ("RGB", "L") and "transparency" not in image.info and not moves
    small = image.width * image.height <= images.MAX_PIXELS
    # A JPEG may hold several pictures (MPO, as phones write it): no type of PLAIN.
    return PLAIN.get(str(image.format)) if plain and upright and small else None
