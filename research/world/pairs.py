"""Stage `pairs`: pairs of texts with a graded similarity, in the layout of the STS benchmark.

Two kinds of truth, each a file that `eval/benchmarks/text_pairs.yaml` reads: WordNet's relations
(`wordnet.jsonl`), and a text embedder's cosines (`teacher.jsonl`), which say how far a model agrees
with its teacher, whichever stage made it. What of WordNet is in no pair is left to train on
(`texts.txt`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from research.world.wordnet import GRADES, GlossPair, Synset, graded_pairs, read_synsets
from unime.core import files
from unime.core.config import Recipe
from unime.core.console import log
from unime.core.errors import DataError
from unime.core.provenance import Output
from unime.data.readers import read_eval
from unime.train.teacher import TeacherSection, teach
from unime.train.texts import distinct

PARTS = {"wordnet": "wordnet.jsonl", "teacher": "teacher.jsonl"}


class PairsRecipe(Recipe):
    """Whose texts, and who grades them."""

    wordnet: str | None = None
    """A folder of WordNet's data files: pairs of its glosses, graded by WordNet."""
    world: str | None = None
    """In its place a built world: random pairs of captions that only its evaluation sets have,
    graded by the teacher alone."""
    sets: list[str] = Field(default=["picture_to_caption", "picture_to_caption_held"], min_length=1)
    """Those sets."""
    pairs: int = Field(default=2500, gt=1)
    teacher: TeacherSection | None = None
    """Whose cosines are written beside."""
    seed: int = 0

    @model_validator(mode="after")
    def _one_source(self) -> PairsRecipe:
        if (self.wordnet is None) == (self.world is None):
            raise ValueError("give either `wordnet` or `world`: where the texts come from")
        if self.world is not None and self.teacher is None:
            raise ValueError("who grades pairs of a world's captions? Name a `teacher`")
        return self


RECIPE = PairsRecipe


def inputs(recipe: PairsRecipe) -> dict[str, Path]:
    """Return what the stage reads."""
    places = {"wordnet": recipe.wordnet, "world": recipe.world}
    read = {name: Path(place) for name, place in places.items() if place is not None}
    if recipe.teacher is not None and recipe.teacher.url is None:
        read["teacher"] = Path(recipe.teacher.id)
    return read


def run(recipe: PairsRecipe, out: Output) -> None:
    """Write the files of pairs, and of WordNet the texts that are left.

    Raises:
        DataError: when there are too few texts.
        ModelError: when the teacher cannot be loaded.
    """
    if recipe.wordnet is not None:
        synsets = read_synsets(Path(recipe.wordnet))
        pairs = graded_pairs(synsets, recipe.pairs, recipe.seed)
        left = texts_left(synsets, pairs)
        rows = [_row(pair.first, pair.second, GRADES[pair.kind], kind=pair.kind) for pair in pairs]
        _write(out.file(PARTS["wordnet"]), rows)
        files.write_text(out.file("texts.txt"), "".join(f"{text}\n" for text in left))
        out.facts(kinds=dict(Counter(pair.kind for pair in pairs)), texts_left=len(left))
        log(f"{len(pairs)} pairs graded by WordNet; {len(left)} texts of other synsets are left")
        texts = [(pair.first, pair.second) for pair in pairs]
    else:
        captions = _captions(Path(recipe.world or ""), recipe.sets)
        texts = draw_pairs(captions, recipe.pairs, recipe.seed)
    if recipe.teacher is not None:
        cosines = _cosines(recipe.teacher, texts, out)
        rows = [_row(*both, float(cosine)) for both, cosine in zip(texts, cosines, strict=True)]
        _write(out.file(PARTS["teacher"]), rows)
        log(f"{len(rows)} pairs graded by {recipe.teacher.id}")


def texts_left(synsets: dict[str, Synset], pairs: Sequence[GlossPair]) -> list[str]:
    """Return the distinct glosses of the synsets that are in no pair, without those of a pair."""
    taken = {key for pair in pairs for key in pair.synsets}
    said = {text for pair in pairs for text in (pair.first, pair.second)}
    left = distinct([one.gloss for key, one in synsets.items() if key not in taken])
    return [text for text in left if text not in said]


def draw_pairs(texts: Sequence[str], count: int, seed: int) -> list[tuple[str, str]]:
    """Draw pairs of different texts; a text may stand in several pairs, a pair but once.

    Raises:
        DataError: when there are too few texts.
    """
    total = len(texts) * (len(texts) - 1) // 2
    if total < count:
        raise DataError(f"{len(texts)} distinct texts are too few for {count} pairs; lower `pairs`")
    # Of all pairs one < other, counted row by row.
    ends = np.cumsum(np.arange(len(texts) - 1, 0, -1))
    drawn = np.random.default_rng(seed).choice(total, count, replace=False)
    one = np.searchsorted(ends, drawn, side="right")
    other = drawn - ends[one] + len(texts)
    return [(texts[int(i)], texts[int(j)]) for i, j in zip(one, other, strict=True)]


def _captions(world: Path, sets: Sequence[str]) -> list[str]:
    """Return the distinct texts among the candidates of evaluation sets."""
    found: list[str] = []
    for name in sets:
        for query in read_eval(world / "eval" / name, root=world):
            found += [item.text for item in query.candidates if item.image is None]
    return distinct(found)


def _cosines(teacher: TeacherSection, texts: Sequence[tuple[str, str]], out: Output) -> np.ndarray:
    both = list(dict.fromkeys(text for pair in texts for text in pair))
    vectors = teach(teacher, both, out.file("embeddings")).astype(np.float32)
    rows = {text: row for row, text in enumerate(both)}
    left, right = (vectors[[rows[pair[side]] for pair in texts]] for side in (0, 1))
    return (left * right).sum(axis=1)


def _row(first: str, second: str, score: int | float, **more: Any) -> dict[str, Any]:
    return {"sentence1": first, "sentence2": second, "score": score, **more}


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    lines = (json.dumps(row, ensure_ascii=False) for row in rows)
    files.write_text(path, "".join(f"{line}\n" for line in lines))
