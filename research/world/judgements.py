"""Lessons for the tiny judge: is the candidate what the query asks for? Asked as the judge is asked.

The tasks' own generators make queries, answers and near misses in the judge's partition: scenes, sprites
and wordings that the student's lessons do not share; the embedder's data share no scene.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence

import numpy as np
from transformers import Qwen3VLProcessor

from research.world import claims
from research.world.base_lessons import Judgement
from research.world.base_tokenizer import END, IMAGE_SLOT, TURN
from research.world.build import TASKS
from research.world.examples import Example, GenerationPlan, WorldContent, WorldTask
from research.world.language import pick
from research.world.planting import FALSE_NEGATIVE_KINDS, other_words
from research.world.render import crop, render
from research.world.truth import relevant, to_json, too_close
from unime.models.pair_scorer import messages_of
from unime.models.prompts import load_judge_prompt

PARTITION = "judge"
PROMPTS = ("judge/yes_no.v1", "judge/yes_no.v1", "judge/match.v1")
"""The prompt that is used, and its paraphrase now and then."""
EXAMPLES = 16
"""Examples that are drawn together: each other's random negatives."""
CORPUS = 48
"""Examples of a corpus as it is mined: the negatives are what is nearest to the answer among them."""
MINED = 0.5
"""How many queries have their candidates from such a corpus; the others from families of near misses."""
FALSE_NEGATIVES = 0.3
"""Rate of second right answers in a corpus."""
LABELLED = ("classification", "vqa")
"""Meta-tasks whose answers are labels of a few words."""
OTHER_WORDS = 0.25
"""How many of these go by their synonyms."""
QUERIES = 4
"""Of those that are drawn together, so many are asked: a step is to see several tasks."""
CANDIDATES = 6
"""Of one query: its answer and wrong ones."""
NEAR = 3
"""Of the wrong ones, at most so many are nearly right; the others are other queries' answers."""
PROMPTED = 8
"""Claims of one query at most where a judge's whole prompt goes round each."""
REVERSED = 0.4
"""How many claims are the query, and pictures the candidates."""
TRUE_OF_IT = ("Find what is true of this picture", "Find what the picture shows")
ASKED_OF_PICTURES = {
    "same": ("Find the same scene", "Find another picture of this scene"),
    "crop": ("Find the part that is named", "Find what the words mean"),
}
SHOWS_IT = ("Find the picture of which this is true", "Find a picture that shows this")


class Judgements:
    """Makes judgements for one processor, whose chat template has been wrapped for judges."""

    def __init__(self, processor: Qwen3VLProcessor) -> None:
        self._processor = processor
        self._tasks = [task for task in TASKS.values() if task.trained]

    def draw(
        self,
        rng: np.random.Generator,
        count: int,
        terse: float = 0.0,
        tasks: Sequence[str] = (),
    ) -> list[Judgement]:
        """Make `count` judgements of `CANDIDATES` candidates each, out of the world's tasks.

        Args:
            rng: Where all randomness comes from.
            count: How many.
            terse: How many are asked in a few words instead of by a judge's prompt: a third of the tokens.
            tasks: Each as likely as it stands here; none: all that are trained.
        """
        known = [TASKS[name] for name in tasks] or self._tasks
        made: list[Judgement] = []
        while len(made) < count:
            made += self._of_one_task(rng, pick(rng, known), terse)
        return made[:count]

    def claims(
        self,
        rng: np.random.Generator,
        count: int,
        objects: tuple[int, int],
        kinds: Sequence[str] = tuple(claims.KINDS),
        terse: float = 0.0,
    ) -> list[Judgement]:
        """Make `count` judgements of simple claims about a picture, or of pictures about a claim.

        Args:
            rng: Where all randomness comes from.
            count: How many.
            objects: Least and most number of things in a scene.
            kinds: Of `research.world.claims.KINDS` and `PICTURED`, each as likely as it stands here.
            terse: How many are asked in a few words; see `draw`.
        """
        return [self._claim(rng, objects, pick(rng, kinds), terse) for _ in range(count)]

    def _claim(
        self, rng: np.random.Generator, objects: tuple[int, int], kind: str, terse: float
    ) -> Judgement:
        turned = rng.random() < REVERSED
        wordings = SHOWS_IT if turned else TRUE_OF_IT
        name = f"claim {kind} reversed" if turned else f"claim {kind}"
        if kind in claims.PICTURED:
            query, candidates = claims.PICTURED[kind](rng, objects, PARTITION)
            wordings, name = ASKED_OF_PICTURES[kind], f"claim {kind}"
        else:
            make = claims.pictures_of_a_claim if turned else claims.claims_about_a_picture
            query, candidates = make(rng, objects, kind, PARTITION)
        candidates = _some(candidates, len(candidates), rng)
        instruction, prompt = pick(rng, wordings), pick(rng, PROMPTS)
        if rng.random() < terse:
            return self.judgement(None, "", query, candidates, name)
        return self.judgement(prompt, instruction, query, candidates[:PROMPTED], name)

    def _of_one_task(
        self, rng: np.random.Generator, task: WorldTask, terse: float
    ) -> Iterator[Judgement]:
        mined = rng.random() < MINED
        drawn, kinds = (CORPUS, FALSE_NEGATIVE_KINDS) if mined else (EXAMPLES, ())
        plan = GenerationPlan(rng, drawn, PARTITION, FALSE_NEGATIVES, kinds, corpus=mined)
        families = task.generate(plan)
        examples = [(example, family) for family in families for example in family]
        targets = [example.target for example, _ in examples]
        parts = [_parts(target) for target in targets] if mined else []
        for number in rng.permutation(len(examples))[:QUERIES].tolist():
            example, family = examples[number]
            near = _mined(number, targets, parts) if mined else _near(example, family)
            candidates = _candidates(example, near, targets, rng)
            if task.meta_task in LABELLED:
                candidates = [_maybe_in_other_words(one, rng) for one in candidates]
            prompt = pick(rng, PROMPTS)
            yield self.judgement(
                None if rng.random() < terse else prompt,
                task.query_instruction,
                example.query,
                candidates,
                f"pair {task.name}",
            )

    def judgement(
        self,
        prompt: str | None,
        instruction: str,
        query: WorldContent,
        candidates: Sequence[WorldContent],
        kind: str,
    ) -> Judgement:
        """Ask about one query's candidates, by a judge's prompt or, without one, in a few words."""
        right = (relevant(query.meaning, candidate.meaning) for candidate in candidates)
        return Judgement(
            tuple(self._asked(prompt, instruction, query, one) for one in candidates),
            tuple(_pixels(c) for c in (query, *candidates) if c.picture is not None),
            tuple("Yes" if one else "No" for one in right),
            kind,
            int(query.picture is not None),
        )

    def _asked(
        self, prompt: str | None, instruction: str, query: WorldContent, candidate: WorldContent
    ) -> str:
        if prompt is None:
            sides = [f"{IMAGE_SLOT if c.picture else ''}{c.text}" for c in (query, candidate)]
            asked = " : ".join([instruction, *sides] if instruction else sides)
            return f"{TURN}user\n{asked} ?{END}\n{TURN}assistant\n"
        sides = ((c.text, c.picture is not None) for c in (query, candidate))
        messages = messages_of(load_judge_prompt(prompt).render(instruction, *sides))
        return str(self._processor.apply_chat_template(messages, tokenize=False))


def _near(example: Example, family: Sequence[Example]) -> list[WorldContent]:
    siblings = [other.target for other in family if other is not example]
    return [*(content for _, content in example.near), *siblings]


def _mined(
    number: int, targets: Sequence[WorldContent], parts: Sequence[set[str]]
) -> list[WorldContent]:
    """Return the targets whose meanings have most in common with one of them, as a miner would."""
    common = [len(parts[number] & other) / len(parts[number] | other) for other in parts]
    order = np.argsort([-share for share in common], kind="stable")[: 2 * NEAR]
    return [targets[i] for i in order.tolist()]


def _parts(content: WorldContent) -> set[str]:
    return set(re.findall(r"\w+", to_json(content.meaning)))


def _maybe_in_other_words(content: WorldContent, rng: np.random.Generator) -> WorldContent:
    if content.picture is not None or rng.random() >= OTHER_WORDS:
        return content
    return dataclasses.replace(content, text=other_words(content.text))


def _candidates(
    example: Example,
    near: Sequence[WorldContent],
    others: Sequence[WorldContent],
    rng: np.random.Generator,
) -> list[WorldContent]:
    """Return the answer and wrong ones, in random order."""
    wrong = [*_some(near, NEAR, rng), *_some(others, len(others), rng)]
    wrong = [content for content in wrong if not too_close(example.query.meaning, content.meaning)]
    found = [example.target, *wrong[: CANDIDATES - 1]]
    return _some(found, len(found), rng)


def _some(
    contents: Sequence[WorldContent], number: int, rng: np.random.Generator
) -> list[WorldContent]:
    return [contents[i] for i in rng.permutation(len(contents))[:number].tolist()]


def _pixels(content: WorldContent) -> np.ndarray:
    assert content.picture is not None
    whole = render(content.picture.scene)
    thing = content.picture.thing
    return whole if thing is None else crop(whole, content.picture.scene.things[thing])
