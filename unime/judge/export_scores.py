"""`unime judge export`: judged pairs in the layouts other trainers read."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from unime.core import files
from unime.core.config import load_recipe
from unime.core.errors import DataError, lookup
from unime.core.overwrite import check_replaceable, never
from unime.data.data_folder import DataFolder, PairRow
from unime.data.items import Item
from unime.data.stage_tables import read_judged, read_mined, read_rows
from unime.judge.stage import ScoreRecipe


class ExportRow(NamedTuple):
    """A query, its positive and its negatives with scores."""

    pair: PairRow
    query: Item
    positive: Item
    negatives: list[Item]
    scores: list[float]
    """The positive's, then the negatives'."""


def export_judged(
    recipe_path: Path | str,
    overrides: Sequence[str],
    output: Path,
    name: str,
    selected: Path | None = None,
) -> str:
    """Write judged pairs to a file; return what was written.

    Candidates without a score, and pairs whose positive has none, are left out and counted.

    Args:
        recipe_path: the recipe whose output is exported.
        overrides: `dotted.key=value`.
        output: the file.
        name: "unime_v2" (JSON) or "sentence_transformers" (Parquet).
        selected: the output of `unime select`: only the negatives chosen there.

    Raises:
        OutputError: when there is a file of that name.
    """
    write = lookup(FORMATS, name, "format")
    # Its layouts leave no room for a mark of ours; people have files of the same layouts.
    check_replaceable(output, never, "unime judge export")
    recipe = load_recipe(recipe_path, ScoreRecipe, overrides)
    rows = list(_rows(recipe, selected))
    kept = [row for row in rows if row.scores and row.negatives]
    write(output, kept)
    negatives = sum(len(row.negatives) for row in kept)
    return (
        f"{output}: {len(kept)} queries with {negatives} negatives; "
        f"{len(rows) - len(kept)} queries without a scored positive or negative left out"
    )


def write_unime_v2(path: Path, rows: Sequence[ExportRow]) -> None:
    """Write UniME-V2's JSON list; instruction and image placeholder stand in the text, as there."""
    values = [
        {
            "query_text": _with_instruction(row.pair.query_instruction, row.query),
            "query_image": row.query.image or "",
            "pos_text": _with_instruction(row.pair.target_instruction, row.positive),
            "pos_image": row.positive.image or "",
            "query_pos_scores": [row.scores[0]],
            "hard_negatives": [
                [_with_instruction(row.pair.target_instruction, item), item.image or ""]
                for item in row.negatives
            ],
            "hard_negatives_scores": row.scores[1:],
        }
        for row in rows
    ]
    files.write_text(path, json.dumps(values, ensure_ascii=False, indent=1) + "\n")


def write_sentence_transformers(path: Path, rows: Sequence[ExportRow]) -> None:
    """Write n-tuples: anchor, positive, negative_1..n and scores.

    Every tuple has the smallest number of negatives any query has, its first ones.
    """
    number = min((len(row.negatives) for row in rows), default=0)
    columns: dict[str, list[Any]] = {
        "anchor": [_cell(row.query, row.pair.query_instruction) for row in rows],
        "positive": [_cell(row.positive, row.pair.target_instruction) for row in rows],
    }
    for place in range(number):
        columns[f"negative_{place + 1}"] = [
            _cell(row.negatives[place], row.pair.target_instruction) for row in rows
        ]
    columns["scores"] = [row.scores[: 1 + number] for row in rows]
    with files.atomic_path(path) as temporary:
        pq.write_table(pa.table(columns), temporary)


FORMATS: dict[str, Callable[[Path, Sequence[ExportRow]], None]] = {
    "unime_v2": write_unime_v2,
    "sentence_transformers": write_sentence_transformers,
}


def _rows(recipe: ScoreRecipe, selected: Path | None) -> Iterator[ExportRow]:
    data = DataFolder.open(recipe.data)
    if selected is not None:
        table = read_rows(selected, data)
        scores = table["scores"].to_pylist()
        positives = [row[0] for row in scores]
        candidates = zip(table["negatives"].to_pylist(), (row[1:] for row in scores), strict=True)
    else:
        table = read_judged(Path(recipe.output))
        mined = read_mined(Path(recipe.mined), data)
        _check_same(recipe, table, mined)
        positives = table["positive_score"].to_pylist()
        candidates = zip(mined["candidates"].to_pylist(), table["scores"].to_pylist(), strict=True)
    for pair_row, positive, (items, values) in zip(
        table["pair"].to_pylist(), positives, candidates, strict=True
    ):
        pair = data.pair(pair_row)
        pairs = zip(items, values, strict=True)
        scored = [(i, float(v)) for i, v in pairs if i >= 0 and not math.isnan(v)]
        known = not math.isnan(positive)
        for value in (positive, *values):
            if not (0 <= value <= 1 or math.isnan(value)):
                raise DataError(
                    f"the score {value} of pair {pair_row} is outside 0..1; the table is damaged, "
                    "write it again with --restart"
                )
        yield ExportRow(
            pair,
            data.items.item(pair.query),
            data.items.item(pair.positives[0]),
            [data.items.item(item) for item, _ in scored],
            [float(positive), *(value for _, value in scored)] if known else [],
        )


def _check_same(recipe: ScoreRecipe, judged: pa.Table, mined: pa.Table) -> None:
    """Refuse scores of other candidates than those that stand there now."""
    lengths = [
        table[name].combine_chunks().value_lengths()
        for table, name in ((judged, "scores"), (mined, "candidates"))
    ]
    same = judged["pair"].equals(mined["pair"]) and lengths[0].equals(lengths[1])
    if not same:
        raise DataError(
            f"{recipe.output} holds scores of other candidates than {recipe.mined} has now; judge "
            "them again"
        )


def _with_instruction(instruction: str, item: Item) -> str:
    image = "<|image_1|>\n" if item.image else ""
    # The colon tells readers where the instruction ends.
    lead = f"{instruction}: " if instruction and item.text else instruction
    return f"{image}{lead}{item.text}"


def _cell(item: Item, instruction: str) -> dict[str, str | None]:
    text = _with_instruction(instruction, Item.of(item.text))
    return {"text": text or None, "image": item.image}
