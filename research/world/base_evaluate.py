"""Measure the student on held-out scenes: whole answers right, by kind."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional
from transformers import Qwen3VLForConditionalGeneration

from research.world.base_batch import LessonEncoder, MicroBatch, micro_batches
from research.world.base_lessons import Judgement, Lesson, make_lesson
from research.world.base_model import answer_logits
from unime.judge.truth_report import auc

if TYPE_CHECKING:
    from research.world.base import BaseRecipe

OBJECTS = (2, 5)
PAIR, ALL_PAIRS = "pair", "pairs"
CLAIM, ALL_CLAIMS = "claim", "claims"


def evaluate(
    model: Qwen3VLForConditionalGeneration, encoder: LessonEncoder, recipe: BaseRecipe
) -> dict[str, Any]:
    """Answer held-out lessons.

    Greedy decoding gives the right answer exactly when every token of it is the likeliest after
    the tokens before it, so one forward pass a lesson is enough.

    Returns:
        accuracy (whole answers) and loss (nats a token) by kind, answers by kind; of judgements
        the AUC of P(yes) against the truth.
    """
    lessons: list[Lesson | Judgement] = [*held_lessons(recipe)]
    if any(phase.judging_share for phase in recipe.curriculum):
        rng = np.random.default_rng((recipe.seed, 1 << 42))
        lessons += encoder.judgements.draw(rng, recipe.eval_lessons)
        lessons += encoder.judgements.claims(rng, recipe.eval_lessons // 4, OBJECTS)
    yes, no = (encoder.piece(answer)[0] for answer in ("Yes", "No"))
    margins: dict[str, list[tuple[float, bool]]] = defaultdict(list)
    right: dict[str, list[bool]] = defaultdict(list)
    losses: dict[str, list[float]] = defaultdict(list)
    for batch in micro_batches(lessons, encoder, number=-(-len(lessons) // 64)):
        with torch.inference_mode():
            logits, targets = answer_logits(model, batch)
            loss = functional.cross_entropy(logits, targets, reduction="none").numpy()
            hit = (logits.argmax(dim=-1) == targets).numpy()
        for kind, start, stop in _answers(batch):
            right[kind].append(bool(hit[start:stop].all()))
            losses[kind].append(float(loss[start:stop].mean()))
            if kind.startswith((PAIR, CLAIM)):
                margin = float(logits[start, yes] - logits[start, no])
                for name in (kind, ALL_PAIRS if kind.startswith(PAIR) else ALL_CLAIMS):
                    margins[name].append((margin, int(targets[start]) == yes))
    figures: dict[str, Any] = {
        "accuracy": {kind: round(float(np.mean(right[kind])), 4) for kind in sorted(right)},
        "loss": {kind: round(float(np.mean(losses[kind])), 4) for kind in sorted(losses)},
        "answers": {kind: len(right[kind]) for kind in sorted(right)},
    }
    if margins:
        figures["auc"] = {
            kind: auc(*(np.array(column) for column in zip(*found, strict=True)))
            for kind, found in sorted(margins.items())
        }
    return figures


def held_lessons(recipe: BaseRecipe) -> list[Lesson]:
    """Make the evaluation lessons; none of their scenes' inventories is ever trained on."""
    # The stream of a step is (seed, step); this one can't be among them.
    rng = np.random.default_rng((recipe.seed, 1 << 40))
    shares = (recipe.text_share, recipe.sprite_share)
    return [
        make_lesson(rng, OBJECTS, *shares, held=True, partition=recipe.partition)
        for _ in range(recipe.eval_lessons)
    ]


def _answers(batch: MicroBatch) -> list[tuple[str, int, int]]:
    """Return kind, start and end of every answer among the batch's answer tokens."""
    found, place = [], 0
    for spans in batch.spans:
        for start, stop, kind in spans:
            found.append((kind, place, place + stop - start))
            place += stop - start
    return found
