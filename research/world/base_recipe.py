"""The recipe of stage `base`, and its curriculum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field

from research.world.base_model import Architecture
from unime.core.config import Recipe, Section


class Phase(Section):
    """A part of the curriculum."""

    until: int
    """The step at which it ends; the last phase lasts for ever."""
    objects: tuple[int, int]
    """Least and most number of things in a scene."""
    listing_share: float = 0.33
    """How many lessons on pictures name everything there is; they teach most a second."""
    judging_share: float = Field(default=0.0, ge=0, le=1)
    """How many lessons are judgements of query and candidate; only the judge has those."""
    claims_share: float = Field(default=0.0, ge=0, le=1)
    """How many of those judge simple claims (`research.world.claims`)."""
    claims: tuple[str, ...] = ("word", "thing", "caption")
    """Their kinds, each as likely as it stands here."""
    terse: float = Field(default=0.0, ge=0, le=1)
    """How many judgements are asked in a few words instead of by a judge's prompt."""
    tasks: tuple[str, ...] = ()
    """Of the world, whose candidates are judged, each as likely as it stands here; none: all."""


class BaseRecipe(Recipe):
    """How the student is built and taught."""

    seed: int = 0
    model: Architecture = Architecture()
    start: str | None = None
    """An output of this stage to go on from: its weights and tokenizer; else random weights."""
    steps: int = Field(gt=0)
    """Of both kinds of lessons."""
    sight_steps: int = Field(default=0, ge=0)
    """The first steps teach the vision tower alone: see `research.world.base_sight`."""
    sight_every: int = Field(default=0, ge=0)
    """After them, one step in so many does so again; 0: none."""
    sight_batch_size: int = 128
    """Pictures a step of those."""
    batch_size: int = 64
    """Lessons a step."""
    micro_batches: int = 4
    """Each step's lessons are split by length, to waste little on padding."""
    curriculum: tuple[Phase, ...] = (Phase(until=0, objects=(1, 5)),)
    partition: Literal["base", "judge"] = "base"
    """Whose scenes, sprites and wordings the lessons use: the student's or the judge's."""
    text_share: float = 0.12
    """How many lessons have no picture."""
    sprite_share: float = 0.25
    learning_rate: float = 2e-3
    """Of Muon for matrices, and of AdamW for all else."""
    weight_decay: float = 0.05
    warmup_steps: int = 100
    decay_steps: int = 400
    """The learning rate is constant in between, then falls to zero in the last steps."""
    ema_decay: float = 0.995
    save_steps: int = 100
    eval_steps: int = 250
    eval_lessons: int = 512
    threads: int = 4
    """Micro-batches at work at the same time, one thread each."""
    workers: int = 1
    """Processes that make lessons ahead of time."""
    bf16: bool | Literal["auto"] = False
    """Matrix products in bfloat16, weights in float32; auto: where the processor has instructions
    for it (a step then takes two thirds of the time; elsewhere it would take longer)."""

    @property
    def in_bfloat16(self) -> bool:
        """Whether products are taken in bfloat16 on this machine."""
        return torch.cpu._is_avx512_bf16_supported() if self.bf16 == "auto" else self.bf16

    def is_sight(self, step: int) -> bool:
        """Tell whether a step teaches the vision tower alone."""
        again = self.sight_every > 0 and step % self.sight_every == 0
        return step < self.sight_steps or again


def phase_at(curriculum: Sequence[Phase], step: int) -> Phase:
    """Return the phase of the curriculum that a step belongs to."""
    return next((phase for phase in curriculum if step < phase.until), curriculum[-1])
