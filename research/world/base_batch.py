"""Turn lessons into tensors: tokens, answer weights, positions and patches."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from tokenizers import Tokenizer
from torch import Tensor

from research.world.base_lessons import Judgement, Lesson
from research.world.base_tokenizer import (
    DEVIATION,
    END,
    END_OF_TEXT,
    IMAGE,
    IMAGE_END,
    IMAGE_SLOT,
    IMAGE_START,
    IMAGE_TOKENS,
    MEAN,
    MERGE,
    PATCH,
    SIDE,
    SPECIALS,
    TURN,
)  # fmt: skip

if TYPE_CHECKING:
    from research.world.judgements import Judgements

IMAGE_BLOCK = IMAGE_START + IMAGE * IMAGE_TOKENS + IMAGE_END
WIDTH = SIDE // PATCH // MERGE  # image tokens a row
RIGHT = 0.25
"""Weight of the right candidates' answers: a mined candidate is seldom right, so that a judge to whom both
are as likely would say yes too often."""


class LessonTokens(NamedTuple):
    """A lesson as tokens."""

    ids: list[int]
    weights: list[float]
    """Of the loss; above 0 on answers and the END after them."""
    spans: list[tuple[int, int, str]]
    """Start and end of every answer, and its kind."""
    branches: list[int]
    """0 for what all see; tokens of a branch above see those before them in 0 and in their own."""


class MicroBatch(NamedTuple):
    """Lessons of similar length, padded on the right; pictures in the order of their rows."""

    tokens: Int[Tensor, "batch length"]
    weights: Float[Tensor, "batch length"]
    positions: Int[Tensor, "3 batch length"]
    patches: Float[Tensor, "images patches values"]
    branches: Int[Tensor, "batch length"]
    """See `LessonTokens.branches`."""
    spans: list[list[tuple[int, int, str]]]


class LessonEncoder:
    """Tokenizes lessons piece by piece, and remembers the pieces."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Take the model's tokenizer."""
        self.tokenizer = tokenizer
        self.piece = functools.lru_cache(maxsize=50_000)(
            lambda text: tuple(tokenizer.encode(text, add_special_tokens=False).ids)
        )

    @functools.cached_property
    def judgements(self) -> Judgements:
        """What makes judgements, rendered by this tokenizer's chat template."""
        from research.world.base_tokenizer import build_processor
        from research.world.judgements import Judgements
        from unime.models.model_config import ModelConfig
        from unime.models.processor import prepare_processor

        processor = build_processor(self.tokenizer)
        config = ModelConfig(id="judge", min_pixels=SIDE * SIDE, max_pixels=SIDE * SIDE)
        prepare_processor(processor, config, "left", images_first=False)
        return Judgements(processor)

    def encode(self, lesson: Lesson | Judgement) -> LessonTokens:
        """Tokenize a lesson as its chat template would render it.

        An answer weighs 1 / sqrt(its length) a token: long listings don't drown short answers.
        """
        if isinstance(lesson, Judgement):
            return self._judgement(lesson)
        ids: list[int] = []
        if lesson.system:
            ids += self.piece(f"{TURN}system\n{lesson.system}{END}\n")
        weights, spans = [0.0] * len(ids), []
        for number, turn in enumerate(lesson.turns):
            image = IMAGE_BLOCK if number == 0 and lesson.pictures else ""
            header = f"{TURN}user\n{image}{turn.question}{END}\n{TURN}assistant\n"
            asked, answer = self.piece(header), self.piece(turn.answer + END)
            start = len(ids) + len(asked)
            spans.append((start, start + len(answer), turn.kind))
            ids += [*asked, *answer]
            weights += [0.0] * len(asked) + [len(answer) ** -0.5] * len(answer)
            if number + 1 < len(lesson.turns):
                ids += self.piece("\n")
                weights.append(0.0)
        return LessonTokens(ids, weights, spans, [0] * len(ids))

    def _judgement(self, lesson: Judgement) -> LessonTokens:
        """Tokenize rendered prompts: what they share once, then each one's rest and its answer.

        An answer is one token; wrong ones weigh three times as much as right ones in sum.
        """
        prompts = [self.piece(text.replace(IMAGE_SLOT, IMAGE_BLOCK)) for text in lesson.prompts]
        shared = _shared(prompts, lesson.query_pictures)
        made = LessonTokens(list(prompts[0][:shared]), [0.0] * shared, [], [0] * shared)
        for number, (prompt, answer) in enumerate(zip(prompts, lesson.answers, strict=True)):
            rest = [*prompt[shared:], *self.piece(answer)]
            made.ids.extend(rest)
            share = RIGHT if answer == "Yes" else 1 - RIGHT
            weight = len(prompts) * share / lesson.answers.count(answer)
            made.weights.extend([0.0] * (len(rest) - 1) + [weight])
            made.spans.append((len(made.ids) - 1, len(made.ids), lesson.kind))
            made.branches.extend([number + 1] * len(rest))
        return made


def _shared(prompts: Sequence[tuple[int, ...]], query_pictures: int) -> int:
    """Return how many tokens all prompts begin with: candidates' pictures only look the same."""
    shared, pictures = 0, 0
    for tokens in zip(*(prompt[:-1] for prompt in prompts), strict=False):
        pictures += tokens[0] == _IMAGE_START
        if len(set(tokens)) > 1 or pictures > query_pictures:
            break
        shared += 1
    return shared


def micro_batches(
    lessons: Sequence[Lesson | Judgement], encoder: LessonEncoder, number: int, multiple: int = 8
) -> list[MicroBatch]:
    """Split lessons by length into at most `number` micro-batches with the least padding."""
    encoded = [(encoder.encode(lesson), lesson.pictures) for lesson in lessons]
    encoded.sort(key=lambda pair: len(pair[0].ids))
    ends = _least_padded([len(tokens.ids) for tokens, _ in encoded], number)
    return [_collate(encoded[start:end], multiple) for start, end in pairwise([0, *ends])]


def _least_padded(lengths: Sequence[int], number: int) -> list[int]:
    """Return where ascending lengths are cut into at most `number` parts, for the least padding."""
    count = len(lengths)
    # best[n]: cost and cuts of the first n in the parts so far; a part costs rows times longest.
    best: list[tuple[int, list[int]]] = [(0, [])] + [
        (n * lengths[n - 1], [n]) for n in range(1, count + 1)
    ]
    for _ in range(number - 1):
        best = [best[0]] + [
            min(
                (best[start][0] + (end - start) * lengths[end - 1], [*best[start][1], end])
                for start in range(end)
            )
            for end in range(1, count + 1)
        ]
    return best[count][1]


def _collate(
    pairs: Sequence[tuple[LessonTokens, tuple[np.ndarray, ...]]], multiple: int
) -> MicroBatch:
    longest = max(len(tokens.ids) for tokens, _ in pairs)
    length = -(-longest // multiple) * multiple
    ids = np.full((len(pairs), length), _PAD, np.int64)
    weights = np.zeros((len(pairs), length), np.float32)
    positions = np.empty((3, len(pairs), length), np.int64)
    branches = np.zeros((len(pairs), length), np.int64)
    for row, (tokens, _) in enumerate(pairs):
        ids[row, : len(tokens.ids)] = tokens.ids
        weights[row, : len(tokens.ids)] = tokens.weights
        branches[row, : len(tokens.ids)] = tokens.branches
        positions[:, row] = rotary_positions(ids[row], branches[row])
    pictures = [picture for _, shown in pairs for picture in shown]
    shape = (len(pictures), SIDE, SIDE, 3)
    return MicroBatch(
        torch.from_numpy(ids),
        torch.from_numpy(weights),
        torch.from_numpy(positions),
        patches_of(np.array(pictures, np.uint8).reshape(shape)),
        torch.from_numpy(branches),
        [tokens.spans for tokens, _ in pairs],
    )


def rotary_positions(
    ids: Int[np.ndarray, " length"], branches: Int[np.ndarray, " length"]
) -> Int[np.ndarray, "3 length"]:
    """Return time, height and width of every token.

    A picture's tokens share one time; the text after it goes on after its longest side. Every
    branch goes on where what it shares ends.
    """
    positions = np.empty((3, len(ids)), np.int64)
    trunk = np.flatnonzero(branches == 0)
    for branch in range(int(branches.max(initial=0)) + 1):
        own = np.flatnonzero(branches == branch) if branch else trunk
        # Padding is of branch 0 and stands last; no branch comes after it.
        before = trunk[trunk < own[0]] if branch else trunk[:0]
        row = np.concatenate([before, own])
        positions[:, own] = _row_positions(ids[row])[:, len(before) :]
    return positions


def _row_positions(ids: Int[np.ndarray, " length"]) -> Int[np.ndarray, "3 length"]:
    positions = np.tile(np.arange(len(ids)), (3, 1))
    patch = np.arange(IMAGE_TOKENS)
    for start in np.flatnonzero(ids == _IMAGE)[::IMAGE_TOKENS].tolist():
        stop, time = start + IMAGE_TOKENS, positions[0, start]
        positions[:, start:stop] = time + np.stack([patch * 0, patch // WIDTH, patch % WIDTH])
        positions[:, stop:] += time + WIDTH - positions[0, stop : stop + 1]
    return positions


def patches_of(
    pictures: UInt8[np.ndarray, "images side side 3"],
) -> Float[Tensor, "images patches values"]:
    """Normalise and cut pictures as the student's image processor does, all at once."""
    images, patches = len(pictures), (SIDE // PATCH) ** 2
    shape = (images, WIDTH, MERGE, PATCH, WIDTH, MERGE, PATCH, 3)
    cut = torch.from_numpy(pictures).view(shape).permute(0, 1, 4, 2, 5, 7, 3, 6)
    values = cut.float().sub_(MEAN * 255).div_(DEVIATION * 255)
    # Each picture is a film of two equal frames.
    values = values.reshape(images, patches, 3, 1, PATCH * PATCH).expand(-1, -1, -1, 2, -1)
    return values.reshape(images, patches, 6 * PATCH * PATCH)


_PAD, _IMAGE, _IMAGE_START = (SPECIALS.index(name) for name in (END_OF_TEXT, IMAGE, IMAGE_START))
