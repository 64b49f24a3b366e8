"""WordNet as truth about texts: synsets, and pairs of their glosses graded by how they are related.

The grade comes from WordNet's own relations, and from nothing that a model says. Each synset stands
in one pair at most, so drawing pairs anew is drawing synsets anew. Examples are left out: one shows
a word in use and does not say what it means, so that an example and the gloss beside it are less
alike, as texts, than the glosses of two siblings. Source: Miller 1995, WordNet: A
Lexical Database for English; the file format is wndb(5WN).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from unime.core.errors import DataError

PARTS = {"noun": "n", "verb": "v", "adj": "a", "adv": "r"}
HYPERNYM = "@"
"""Kinds alone: an instance ("@i", a person or a town) is no kind of its class."""
WORDS = (4, 40)
"""Shorter texts say too little, longer ones are rare."""


class Synset(NamedTuple):
    """One meaning."""

    key: str
    """Part of speech and place in its file, such as "n00001740"."""
    gloss: str
    """What it means, without examples."""
    parents: tuple[str, ...]
    """Keys of its hypernyms."""


class GlossPair(NamedTuple):
    """Two glosses, and how alike WordNet says they are."""

    first: str
    second: str
    kind: str
    """A key of `GRADES`."""
    synsets: tuple[str, str]


GRADES = {"parent": 3, "sibling": 2, "cousin": 1, "unrelated": 0}
"""A synset and its hypernym; two with one hypernym; with one hypernym's hypernym; and two with no
relation nearer than that."""


def read_synsets(folder: Path) -> dict[str, Synset]:
    """Return WordNet's synsets by key, in the order of its files.

    Args:
        folder: holds data.noun, data.verb, data.adj and data.adv.

    Raises:
        DataError: when a file is missing.
    """
    found: dict[str, Synset] = {}
    for part, letter in PARTS.items():
        path = folder / f"data.{part}"
        if not path.is_file():
            raise DataError(
                f"{path} is missing (working directory {Path.cwd()}); "
                "`python -m research.world teacher runs/teacher --also wordnet` fetches it"
            )
        for line in path.read_text(encoding="utf-8").splitlines():
            # The licence at the top of a file is indented by two blanks.
            if line.strip() and not line.startswith("  "):
                synset = _parse(line, letter)
                found[synset.key] = synset
    return found


def graded_pairs(synsets: Mapping[str, Synset], count: int, seed: int) -> list[GlossPair]:
    """Draw pairs, equally many of each grade; no synset is in two of them.

    Args:
        synsets: what `read_synsets` returned.
        count: how many pairs.
        seed: of the draw.

    Raises:
        DataError: when WordNet has not so many.
    """
    rng = np.random.default_rng(seed)
    draw = _Draw(synsets, rng)
    keys = [key for key, synset in synsets.items() if draw.fits(synset)]
    order = iter([keys[place] for place in rng.permutation(len(keys))])
    pairs: list[GlossPair] = []
    while len(pairs) < count:
        key = next(order, None)
        if key is None:
            raise DataError(f"WordNet gives {len(pairs)} pairs, {count} are asked for")
        # In turn, and a synset that has no such relative is passed over.
        kind = list(GRADES)[len(pairs) % len(GRADES)]
        if (pair := draw.pair(key, kind)) is not None:
            pairs.append(pair)
    return pairs


class _Draw:
    """Finds a relative of a kind, and remembers which synsets are taken."""

    def __init__(self, synsets: Mapping[str, Synset], rng: np.random.Generator) -> None:
        self._synsets, self._rng = synsets, rng
        self._taken: set[str] = set()
        self._said: set[str] = set()
        self._children: dict[str, list[str]] = defaultdict(list)
        for synset in synsets.values():
            for parent in synset.parents:
                self._children[parent].append(synset.key)
        self._keys = list(synsets)
        self._kinds: dict[str, Callable[[str], Sequence[str]]] = {
            "parent": self._parents,
            "sibling": self._siblings,
            "cousin": self._cousins,
            "unrelated": self._unrelated,
        }

    def fits(self, synset: Synset) -> bool:
        """Tell whether a synset may stand in a pair."""
        return bool(synset.parents) and synset.key[0] in "nv" and _has_length(synset.gloss)

    def pair(self, key: str, kind: str) -> GlossPair | None:
        """Return a pair of a kind that begins with a synset, or None where there is none."""
        if key in self._taken:
            return None
        related = self._kinds[kind](key)
        free = [k for k in related if k not in self._taken and self.fits(self._synsets[k])]
        if not free:
            return None
        other = free[int(self._rng.integers(len(free)))]
        first, second = (self._synsets[k].gloss for k in (key, other))
        # Some glosses are said of several synsets.
        if first == second or self._said & {first, second}:
            return None
        self._taken |= {key, other}
        self._said |= {first, second}
        return GlossPair(first, second, kind, (key, other))

    def _parents(self, key: str) -> list[str]:
        return list(self._synsets[key].parents)

    def _siblings(self, key: str) -> list[str]:
        found = {child for parent in self._parents(key) for child in self._children[parent]}
        return sorted(found - {key} - set(self._parents(key)) - set(self._children[key]))

    def _cousins(self, key: str) -> list[str]:
        aunts = {aunt for parent in self._parents(key) for aunt in self._siblings(parent)}
        found = {child for aunt in aunts for child in self._children[aunt]}
        return sorted(found - self._near(key))

    def _unrelated(self, key: str) -> list[str]:
        drawn = self._rng.integers(len(self._keys), size=20)
        near = self._near(key) | set(self._cousins(key))
        return [
            k for k in (self._keys[place] for place in drawn) if k[0] == key[0] and k not in near
        ]

    def _near(self, key: str) -> set[str]:
        parents = self._parents(key)
        grandparents = {above for parent in parents for above in self._parents(parent)}
        return {key, *parents, *grandparents, *self._siblings(key), *self._children[key]}


def _parse(line: str, letter: str) -> Synset:
    """Read a line: place, file, type, words, pointers, `|`, gloss and examples."""
    head, _, said = line.partition("|")
    fields = head.split()
    words = int(fields[3], 16)
    start = 4 + 2 * words
    pointers = fields[start + 1 : start + 1 + 4 * int(fields[start])]
    parents = [
        f"{part}{place}"
        for symbol, place, part in zip(pointers[::4], pointers[1::4], pointers[2::4], strict=True)
        if symbol == HYPERNYM
    ]
    gloss = said.partition('"')[0].strip(" ;:,")
    return Synset(f"{letter}{fields[0]}", gloss, tuple(parents))


def _has_length(text: str) -> bool:
    return WORDS[0] <= len(text.split()) <= WORDS[1]
