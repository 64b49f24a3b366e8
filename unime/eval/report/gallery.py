"""Failures to look at: query, right answer, the model's first five, the judge's opinion."""

from __future__ import annotations

import base64
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unime.core import console
from unime.core.errors import DataError
from unime.eval.pool import PoolImage, Region
from unime.eval.report.evaluations import Evaluation, Model

PER_TASK = 4
"""Failures shown of one model on one task, of different distractor kinds as far as there are."""

SHOWN = 5
EDGE = 112
"""Pixels of a thumbnail's longer side."""

BUDGET = 7_000_000
"""Bytes of thumbnails in one page; models after the budget is spent show texts alone."""


def gallery(
    evaluations: Sequence[Evaluation], opinions: Mapping[tuple[bytes, bytes], float]
) -> dict[str, Any]:
    """Return the cards and their pictures.

    Args:
        evaluations: what to show, the last models first when space is short.
        opinions: judged P(yes) by the contents of query and candidate.
    """
    pictures = _Pictures()
    cards: list[dict[str, Any]] = []
    number = sum(len(evaluation.models) for evaluation in evaluations)
    for evaluation in reversed(evaluations):
        items = _Items(evaluation.items(), pictures)
        for model in reversed(evaluation.models):
            number -= 1
            for benchmark, task, facts in model.tasks():
                for row in _failures(model, benchmark, task):
                    card = _card(row, items, opinions)
                    where = {"model": number, "benchmark": benchmark, "task": task}
                    cards.append({**where, "n": facts["n"], **card})
    if pictures.left_out:
        console.log(f"report: {pictures.left_out} thumbnails left out, the budget is spent")
    cards.sort(key=lambda card: (card["task"], card["query_number"], card["model"]))
    return {"cards": cards, "pictures": pictures.data, "left_out": pictures.left_out}


def _failures(model: Model, benchmark: str, task: str) -> list[dict[str, Any]]:
    """Return the first failures of each kind in turn."""
    table = model.table(benchmark, task)
    if "hit" not in table.column_names:
        return []
    by_kind: dict[str, list[int]] = defaultdict(list)
    kinds = table["winner_kind"].to_pylist() if "winner_kind" in table.column_names else None
    for place, hit in enumerate(table["hit"].to_pylist()):
        if not hit:
            by_kind[kinds[place] if kinds else ""].append(place)
    chosen: list[int] = []
    for turn in range(PER_TASK):
        chosen += [places[turn] for _, places in sorted(by_kind.items()) if turn < len(places)]
    return [
        {**table.slice(place, 1).to_pylist()[0], "query_number": place}
        for place in sorted(chosen[:PER_TASK])
    ]


def _card(
    row: Mapping[str, Any], items: _Items, opinions: Mapping[tuple[bytes, bytes], float]
) -> dict[str, Any]:
    query, gold = row["query_row"], row["gold_row"]
    top = list(zip(row["top_rows"], row["top_similarities"], strict=True))[:SHOWN]

    def answer(place: int, similarity: float | None) -> dict[str, Any]:
        opinion = opinions.get((items.content[query], items.content[place]))
        shown = {"similarity": None if similarity is None else round(similarity, 4)}
        right = items.content[place] == items.content[gold]
        return {**items.show(place), **shown, "judge": opinion, "gold": right}

    return {
        "query_number": row["query_number"],
        "kind": row.get("winner_kind") or "",
        "rank": row.get("rank"),
        "query": {**items.show(query), "instruction": items.instruction[query]},
        "gold": answer(gold, row["gold_similarity"]),
        "top": [answer(place, similarity) for place, similarity in top],
    }


class _Items:
    """What pool rows are."""

    def __init__(self, table: Any, pictures: _Pictures) -> None:
        self._columns = {
            name: table[name].to_pylist() for name in ("text", "root", "image", "region")
        }
        self.content = table["content_id"].to_pylist()
        self.instruction = table["instruction"].to_pylist()
        self._pictures = pictures

    def show(self, row: int) -> dict[str, Any]:
        """Return a row's text and its picture's number."""
        text, root, image, region = (self._columns[name][row] for name in self._columns)
        picture = None
        if image is not None:
            place = PoolImage(Path(root), image, Region(image, *region) if region else None)
            picture = self._pictures.number(place)
        return {"text": text, "picture": picture}


class _Pictures:
    """Thumbnails as data URLs, each once."""

    def __init__(self) -> None:
        self.data: list[str] = []
        self.left_out = 0
        self._numbers: dict[PoolImage, int] = {}
        self._bytes = 0

    def number(self, place: PoolImage) -> int | None:
        """Return a picture's number in `data`; None when it cannot be shown."""
        if place not in self._numbers:
            if self._bytes > BUDGET:
                self.left_out += 1
                return None
            try:
                image = place.load()
            except DataError as error:
                console.log(f"report: {error}")
                return None
            image.thumbnail((EDGE, EDGE))
            buffer = io.BytesIO()
            image.save(buffer, "WEBP", quality=70)
            url = f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
            self._bytes += len(url)
            self._numbers[place] = len(self.data)
            self.data.append(url)
        return self._numbers[place]
