"""What a model answers about (query, candidate) pairs, and the tokens that spell its answers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from unime.models.image_blocks import KeyedImage
from unime.models.next_token import NextToken
from unime.models.prompt_tokens import Prompt, PromptTokens
from unime.models.prompts import JudgePrompt, RenderedPair


class PairSide(NamedTuple):
    """One side of a pair."""

    text: str = ""
    picture: KeyedImage | None = None


class PairInput(NamedTuple):
    """A query and one candidate."""

    instruction: str
    query: PairSide
    candidate: PairSide

    @property
    def query_key(self) -> tuple[str, str, bytes]:
        """Equal for the candidates of one query."""
        picture = self.query.picture
        return self.instruction, self.query.text, b"" if picture is None else picture.key


class PairAnswers(NamedTuple):
    """What was read from the next token of every pair."""

    lengths: list[int]
    """PromptTokens of each prompt."""
    values: Float[Tensor, "pairs values"]
    """Float64 on the CPU; NaN where a prompt is longer than `max_length`."""


class PairScorer:
    """Renders pairs and reads the next token; what a query's candidates share is computed once.

    Args:
        model: a generative vision-language model, in evaluation mode.
        processor: with the wrapped chat template.
        prompt: what is asked about a pair.
        max_length: longer prompts are not truncated: that would judge another pair.
        batch_size: pairs in one forward pass; changes no score.
    """

    def __init__(
        self, model: Any, processor: Any, prompt: JudgePrompt, max_length: int, batch_size: int
    ) -> None:
        self.prompt, self.max_length = prompt, max_length
        self._processor, self._batch_size = processor, batch_size
        self._next_token = NextToken(model, processor, batch_size)

    def read(
        self, pairs: Sequence[PairInput], read: Callable[[Tensor], Float[Tensor, "batch values"]]
    ) -> PairAnswers:
        """Return what `read` makes of the next-token logits `(batch, vocab)` of each pair."""
        lengths = [0] * len(pairs)
        found: dict[int, Tensor] = {}
        for numbers in self._groups(pairs):
            tokens = self.tokens([pairs[n] for n in numbers])
            for number, row in zip(numbers, tokens, strict=True):
                lengths[number] = len(row)
            fitting = [place for place, row in enumerate(tokens) if len(row) <= self.max_length]
            for places, logits in self._next_token.logits([tokens[place] for place in fitting]):
                for place, values in zip(places, read(logits).double().cpu(), strict=True):
                    found[numbers[fitting[place]]] = values
        missing = torch.full_like(next(iter(found.values())), torch.nan) if found else None
        rows = [found.get(number, missing) for number in range(len(pairs))]
        if missing is None:
            return PairAnswers(lengths, torch.full((len(pairs), 1), torch.nan).double())
        return PairAnswers(lengths, torch.stack([row for row in rows if row is not None]))

    def tokens(self, pairs: Sequence[PairInput]) -> list[PromptTokens]:
        """Return each pair's prompt as the model reads it, placeholders replaced by images."""
        return self._next_token.tokenize([self.prompted(pair) for pair in pairs])

    def prompted(self, pair: PairInput) -> Prompt:
        """Return the rendered prompt of one pair."""
        sides = (pair.query, pair.candidate)
        query, candidate = ((side.text, side.picture is not None) for side in sides)
        rendered = self.prompt.render(pair.instruction, query, candidate)
        text = self._processor.apply_chat_template(messages_of(rendered), tokenize=False)
        return Prompt(text, tuple(side.picture for side in sides if side.picture is not None))

    def _groups(self, pairs: Sequence[PairInput]) -> list[list[int]]:
        """Return the numbers of each query's pairs; queries with a single one go together."""
        by_query: dict[tuple[str, str, bytes], list[int]] = defaultdict(list)
        for number, pair in enumerate(pairs):
            by_query[pair.query_key].append(number)
        single = [numbers[0] for numbers in by_query.values() if len(numbers) == 1]
        chunks = [
            single[start : start + self._batch_size]
            for start in range(0, len(single), self._batch_size)
        ]
        return [numbers for numbers in by_query.values() if len(numbers) > 1] + chunks


def messages_of(rendered: RenderedPair) -> list[dict[str, Any]]:
    """Return the chat messages of a rendered prompt."""
    user = {"role": "user", "content": [*rendered.query, *rendered.candidate]}
    if not rendered.system:
        return [user]
    return [{"role": "system", "content": [{"type": "text", "text": rendered.system}]}, user]
