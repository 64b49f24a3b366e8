"""Lessons for the tiny judge: is the candidate what the query asks for? Asked as the judge is asked.

The tasks' own generators make queries, answers and near misses in the judge's partition: scenes, sprites
and wordings that neither the student's lessons nor the embedder's data share.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from transformers import Qwen3VLProcessor

from unime.models.pair_scorer import messages_of
from unime.prompts import load_judge_prompt
from world.base_lessons import Judgement
from world.build import TASKS
from world.examples import Content, Example, Plan
from world.language import pick
from world.render import crop, render
from world.truth import relevant, too_close

PARTITION = "judge"
PROMPTS = ("judge/yes_no.v1", "judge/yes_no.v1", "judge/match.v1")
"""The prompt that is used, and its paraphrase now and then."""
EXAMPLES = 16
"""Examples that are drawn together: each other's random negatives."""
NEAR_SHARE = 0.6
"""Of the negatives, those that are nearly right, where a query has any."""


class Judgements:
    """Makes judgements for one processor, whose chat template has been wrapped for judges."""

    def __init__(self, processor: Qwen3VLProcessor) -> None:
        self._processor = processor
        self._tasks = [task for task in TASKS.values() if task.trained]

    def draw(self, rng: np.random.Generator, count: int) -> list[Judgement]:
        """Make `count` judgements, as many right as wrong on average."""
        made: list[Judgement] = []
        while len(made) < count:
            made += self._of_one_task(rng)
        return made[:count]

    def _of_one_task(self, rng: np.random.Generator) -> Iterator[Judgement]:
        task = pick(rng, self._tasks)
        families = task.generate(Plan(rng, EXAMPLES, PARTITION))
        examples = [(example, family) for family in families for example in family]
        for example, family in examples:
            near = _near(example, family)
            others = [other.target for other, _ in examples]
            candidate = _candidate(example, near, others, rng)
            yield self.judgement(
                pick(rng, PROMPTS), task.query_instruction, example.query, candidate, task.name
            )

    def judgement(
        self, prompt: str, instruction: str, query: Content, candidate: Content, task: str
    ) -> Judgement:
        """Ask about one pair."""
        sides = ((c.text, c.picture is not None) for c in (query, candidate))
        rendered = load_judge_prompt(prompt).render(instruction, *sides)
        text = self._processor.apply_chat_template(messages_of(rendered), tokenize=False)
        pictures = tuple(_pixels(c) for c in (query, candidate) if c.picture is not None)
        right = relevant(query.meaning, candidate.meaning)
        return Judgement(str(text), pictures, "Yes" if right else "No", f"pair {task}")


def _near(example: Example, family: Sequence[Example]) -> list[Content]:
    siblings = [other.target for other in family if other is not example]
    return [*(content for _, content in example.near), *siblings]


def _candidate(
    example: Example, near: Sequence[Content], others: Sequence[Content], rng: np.random.Generator
) -> Content:
    """Return the answer, or something wrong."""
    if rng.random() < 0.5:
        return example.target
    pool = near if near and rng.random() < NEAR_SHARE else others
    wrong = [content for content in pool if not too_close(example.query.meaning, content.meaning)]
    return pick(rng, wrong) if wrong else example.target


def _pixels(content: Content) -> np.ndarray:
    assert content.picture is not None
    whole = render(content.picture.scene)
    thing = content.picture.thing
    return whole if thing is None else crop(whole, content.picture.scene.things[thing])
