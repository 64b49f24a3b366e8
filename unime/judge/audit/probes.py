"""Which pairs an audit looks at, beside a query's positive and mined candidates.

- random: another target of the task; hardly ever right.
- colour: a target that differs from the positive in colour words alone.
- image: the positive's pair with another image under the same texts.
A known positive of the query is none of these.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from unime.data.items import content_id, pair_key
from unime.judge.engine import JudgeInput, Request
from unime.judge.job import JudgeJob

COLOURS = frozenset(
    [
        "red",
        "orange",
        "yellow",
        "green",
        "blue",
        "purple",
        "violet",
        "pink",
        "brown",
        "black",
        "white",
        "grey",
        "gray",
        "cyan",
        "magenta",
        "turquoise",
        "crimson",
        "scarlet",
        "navy",
        "teal",
        "golden",
        "gold",
        "silver",
        "beige",
        "maroon",
        "lime",
        "olive",
    ]
)
RANDOM_PER_QUERY = 4
_WORD = re.compile(r"[a-z]+")


class AuditProbe(NamedTuple):
    """One pair an audit looks at."""

    kind: str
    """positive, mined, random, colour or image."""
    query: int
    """Which sampled query it belongs to."""
    request: Request


@dataclass
class Sampler:
    """Draws probes for some of a job's queries; equal seeds draw equal ones."""

    job: JudgeJob
    made_up: bool
    """Whether texts nobody wrote may be asked about; an oracle knows nothing of them."""
    seed: int = 0
    _random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        """Seed the draws."""
        self._random = random.Random(self.seed)  # noqa: S311 - a sample, no secret

    def draw(self, queries: int) -> list[AuditProbe]:
        """Return the probes of some queries, a query's together."""
        numbers = range(len(self.job.groups))
        chosen = sorted(self._random.sample(numbers, min(queries, len(numbers))))
        return [
            probe for place, number in enumerate(chosen) for probe in self._of_query(place, number)
        ]

    def _of_query(self, place: int, number: int) -> list[AuditProbe]:
        row = self.job.row(int(self.job.groups[number][0]))
        pair = self.job.data.pair(row.pair)
        requests = self.job.requests(self.job.groups[number][:1])
        positive = requests[0]
        probes = [AuditProbe("positive", place, positive)]
        probes += [AuditProbe("mined", place, request) for request in requests[1:]]
        known = self._known[pair.task, pair.query]
        others = [item for item in self._targets[pair.task] if item not in known]
        for item in self._random.sample(others, min(RANDOM_PER_QUERY, len(others))):
            probes.append(AuditProbe("random", place, self._with(positive, self.job.content(item))))
        probes += [AuditProbe("colour", place, r) for r in self._recoloured(positive, others)]
        probes += [
            AuditProbe("image", place, r) for r in self._other_image(positive, pair.task, others)
        ]
        return probes

    def _recoloured(self, positive: Request, others: Sequence[int]) -> list[Request]:
        """Return the positive's pair with another colour named in the candidate."""
        text = positive.candidate.text
        skeleton = without_colours(text)
        if skeleton == text.lower() or positive.candidate.image is not None:
            return []
        texts = self.job.data.items
        twins = [
            item
            for item in others
            if (other := texts.item(item)).image is None
            and other.text != text
            and without_colours(other.text) == skeleton
        ]
        if twins:
            return [self._with(positive, self.job.content(self._random.choice(twins)))]
        if not self.made_up:
            return []
        new = self._recolour(text)
        return [self._with(positive, JudgeInput(content_id(new, None), new))]

    def _recolour(self, text: str) -> str:
        named = sorted(COLOURS & set(_WORD.findall(text.lower())))
        swap = {
            name: self._random.choice(sorted({"red", "green", "blue", "yellow"} - set(named)))
            for name in named
        }
        return _WORD.sub(lambda match: swap.get(match[0], match[0]), text.lower())

    def _other_image(self, positive: Request, task: str, others: Sequence[int]) -> list[Request]:
        """Return the positive's pair with another image where it has one; texts stay."""
        if positive.candidate.image is not None:
            items = self.job.data.items
            same = [
                item
                for item in others
                if (other := items.item(item)).image and other.text == positive.candidate.text
            ]
            if same:
                return [self._with(positive, self.job.content(self._random.choice(same)))]
        if positive.query.image is not None:
            same = self._queries[task, positive.instruction, positive.query.text]
            fitting = [
                item
                for item in same
                if self.job.data.items.content_id(item) != positive.query.id
                and positive.candidate.id not in self._answers[task, item]
            ]
            if fitting:
                query = self.job.content(self._random.choice(fitting))
                return [self.keyed(replace(positive, query=query))]
        return []

    def _with(self, request: Request, candidate: JudgeInput) -> Request:
        return self.keyed(replace(request, candidate=candidate))

    def keyed(self, request: Request) -> Request:
        """Return a request under this job's judge."""
        judge = self.job.fingerprint
        key = pair_key(request.query.id, request.instruction, request.candidate.id, judge)
        return replace(request, key=key)

    @cached_property
    def _known(self) -> defaultdict[tuple[str, int], set[int]]:
        """Known positives of a query, and the query itself; rows of the item table."""
        known: defaultdict[tuple[str, int], set[int]] = defaultdict(set)
        for row in range(self.job.data.pairs.num_rows):
            pair = self.job.data.pair(row)
            known[pair.task, pair.query] |= {pair.query, *pair.positives}
        return known

    @cached_property
    def _answers(self) -> dict[tuple[str, int], set[bytes]]:
        content = self.job.data.items.content_id
        return {place: {content(item) for item in items} for place, items in self._known.items()}

    @cached_property
    def _targets(self) -> dict[str, list[int]]:
        found: defaultdict[str, dict[int, None]] = defaultdict(dict)
        for number in self._mined_pairs:
            pair = self.job.data.pair(number)
            found[pair.task] |= dict.fromkeys(pair.positives)
        return {task: list(items) for task, items in found.items()}

    @cached_property
    def _queries(self) -> defaultdict[tuple[str, str, str], list[int]]:
        """Queries with an image, by task, instruction and text."""
        found: defaultdict[tuple[str, str, str], dict[int, None]] = defaultdict(dict)
        for number in self._mined_pairs:
            pair = self.job.data.pair(number)
            item = self.job.data.items.item(pair.query)
            if item.image is not None:
                found[pair.task, pair.query_instruction, item.text][pair.query] = None
        return defaultdict(list, {place: list(items) for place, items in found.items()})

    @property
    def _mined_pairs(self) -> list[int]:
        return np.asarray(self.job.mined["pair"]).tolist()


def without_colours(text: str) -> str:
    """Return a text in lower case with a mark for every colour word."""
    return _WORD.sub(lambda m: "_" if m[0] in COLOURS else m[0], text.lower())
