"""The stream of batches: each decided by (seed, step), made ahead of time by other processes."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from research.world.base import BaseRecipe, phase_at
from research.world.base_batch import LessonEncoder, MicroBatch, micro_batches
from research.world.base_lessons import Judgement, Lesson, make_lesson
from research.world.base_sight import SightBatch, sight_batches

Batch = list[MicroBatch] | list[SightBatch]
"""One step's lessons, in parts; all of one kind."""

AHEAD = 6  # batches made ahead by each worker


def make_batch(recipe: BaseRecipe, encoder: LessonEncoder, step: int) -> Batch:
    """Make one step's batch; (seed, step) decide it."""
    rng = np.random.default_rng((recipe.seed, step))
    if recipe.is_sight(step):
        size, parts = recipe.sight_batch_size, recipe.micro_batches
        return sight_batches(rng, size, parts, partition=recipe.partition)
    phase = phase_at(recipe.curriculum, step)
    shares = (recipe.text_share, recipe.sprite_share, phase.listing_share)
    judging = round(phase.judging_share * recipe.batch_size)
    claims = round(phase.claims_share * judging)
    lessons: list[Lesson | Judgement] = [
        make_lesson(rng, phase.objects, *shares, partition=recipe.partition)
        for _ in range(recipe.batch_size - judging)
    ]
    if judging:
        made, terse = encoder.judgements, phase.terse
        lessons += made.draw(rng, judging - claims, terse, phase.tasks)
        lessons += made.claims(rng, claims, phase.objects, phase.claims, terse)
    return micro_batches(lessons, encoder, recipe.micro_batches)


def batches(recipe: BaseRecipe, tokenizer: Tokenizer, start: int) -> Iterator[Batch]:
    """Yield the batches from `start` on, made ahead by workers (or here, without any)."""
    if not recipe.workers:
        encoder = LessonEncoder(tokenizer)
        for step in range(start, recipe.steps):
            yield make_batch(recipe, encoder, step)
        return
    pool = ProcessPoolExecutor(
        recipe.workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(tokenizer.to_str(), recipe),
    )
    with pool:
        waiting: deque[Future[Any]] = deque()
        for step in range(start, recipe.steps):
            while len(waiting) < AHEAD * recipe.workers and step + len(waiting) < recipe.steps:
                waiting.append(pool.submit(_work, step + len(waiting)))
            yield _from_numpy(waiting.popleft().result())


_worker: dict[str, Any] = {}


def _start_worker(tokenizer: str, recipe: BaseRecipe) -> None:
    torch.set_num_threads(1)
    _worker.update(encoder=LessonEncoder(Tokenizer.from_str(tokenizer)), recipe=recipe)


def _work(step: int) -> list[tuple[type, list[Any]]]:
    """Make a batch as numpy arrays: tensors would travel through shared memory files."""
    made = make_batch(_worker["recipe"], _worker["encoder"], step)
    return [
        (type(part), [x.numpy() if isinstance(x, torch.Tensor) else x for x in part])
        for part in made
    ]


def _from_numpy(made: list[tuple[type, list[Any]]]) -> Batch:
    return [
        kind(*(torch.from_numpy(x) if isinstance(x, np.ndarray) else x for x in values))
        for kind, values in made
    ]
