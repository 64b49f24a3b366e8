"""Plant false negatives in training data: answers that are right, but are another pair's positive."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from research.world import words
from research.world.examples import Example, GenerationPlan, WorldContent
from research.world.scene import Scene, Spec
from research.world.truth import Meaning, relevant

FALSE_NEGATIVE_KINDS = ("paraphrase", "under_specified", "synonym", "near_duplicate")


def other_words(text: str) -> str:
    """Return the text with every word that has one replaced by its synonym."""
    return " ".join(words.SYNONYMS.get(part, words.LABELS.get(part, part)) for part in text.split())


class Synonyms:
    """For tasks with labels or short answers: some of them go by two names in the corpus.

    Which ones is drawn so that about the wanted share of the queries has a planted false negative.
    """

    def __init__(self, plan: GenerationPlan, texts: Sequence[str]) -> None:
        self.plan = plan
        wanted = plan.false_negative_rate * len(texts)
        if "synonym" not in plan.false_negative_kinds:
            wanted = 0.0
        counts = Counter(text for text in texts if other_words(text) != text)
        names = sorted(name for name, count in counts.items() if count > 1)
        self.doubled: set[str] = set()
        share = 0
        for index in plan.rng.permutation(len(names)).tolist():
            # A label too common for what is left of the share is passed over.
            if share + counts[names[index]] <= wanted * 1.05:
                self.doubled.add(names[index])
                share += counts[names[index]]
        self.said: Counter[str] = Counter()

    def say(self, text: str, meaning: Meaning) -> WorldContent:
        """Return the label or answer, every other time by its second name if it has one."""
        self.said[text] += 1
        second = text in self.doubled and self.said[text] % 2 == 0
        return WorldContent(other_words(text) if second else text, None, meaning)

    def record(self, examples: Iterable[Example]) -> None:
        """Note for every query the right answers beside its own."""
        examples = list(examples)
        names: defaultdict[Meaning, dict[str, WorldContent]] = defaultdict(dict)
        for example in examples:
            names[example.target.meaning][example.target.text] = example.target
        for example in examples:
            for text, content in names[example.target.meaning].items():
                if text != example.target.text:
                    self.plan.planted.append((example.query, content, "synonym"))


class Corpus:
    """Captions and scenes of a task so far: finds what would be an unplanned match."""

    def __init__(self) -> None:
        self._scenes: defaultdict[str, set[int]] = defaultdict(set)
        self._specs: defaultdict[frozenset[str], list[tuple[int, Spec]]] = defaultdict(list)
        self._all: list[Scene] = []

    def matches(self, scene: Scene, spec: Spec) -> set[int]:
        """Return the numbers of pairs whose picture fits the caption, or the other way round."""
        having = [self._scenes[thing.kind] for thing in spec.things]
        hits = {i for i in set.intersection(*having) if relevant(spec, self._all[i])}
        for kinds in _subsets(sorted({thing.kind for thing in scene.things})):
            hits |= {i for i, said in self._specs.get(kinds, ()) if relevant(said, scene)}
        return hits

    def add(self, scene: Scene, spec: Spec) -> int:
        """Add a pair; return its number."""
        number = len(self._all)
        self._all.append(scene)
        for thing in scene.things:
            self._scenes[thing.kind].add(number)
        self._specs[frozenset(thing.kind for thing in spec.things)].append((number, spec))
        return number


def _subsets(kinds: Sequence[str]) -> Iterable[frozenset[str]]:
    """Yield all non-empty subsets of a few kinds."""
    for mask in range(1, 1 << len(kinds)):
        yield frozenset(kind for bit, kind in enumerate(kinds) if mask >> bit & 1)
