"""What a reranker is asked: about one candidate (yes or no), or which of a list is best."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from unime.core.errors import ModelError
from unime.models.pair_scorer import PairSide, messages_of
from unime.models.processor import tokenizing
from unime.models.prompt_batch import prompt_batch
from unime.models.prompt_tokens import Prompt
from unime.models.prompts import JudgePrompt, ListPrompt


class RerankQuestion(NamedTuple):
    """One prompt's content."""

    instruction: str
    query: PairSide
    candidates: tuple[PairSide, ...]
    is_list: bool = False
    """Which of the candidates is best; otherwise there is one, and the answer is yes or no."""

    @property
    def sides(self) -> tuple[PairSide, ...]:
        """The query, then the candidates: the order of their images."""
        return (self.query, *self.candidates)

    @property
    def beginning(self) -> tuple[Hashable, ...]:
        """Equal for questions whose prompts begin alike."""
        picture = self.query.picture
        key = None if picture is None else picture.key
        return self.is_list, self.instruction, self.query.text, key


class QuestionRenderer:
    """Renders questions for one processor.

    Args:
        processor: with the wrapped chat template, so that no text can open a turn.
        pair_prompt: asks about one candidate.
        list_prompt: asks about a list.
        max_length: of a prompt, in tokens, images included.
        name: of the model, for messages.
    """

    def __init__(
        self,
        processor: Any,
        pair_prompt: JudgePrompt,
        list_prompt: ListPrompt,
        max_length: int,
        name: str,
    ) -> None:
        self.processor, self.pair_prompt, self.list_prompt = processor, pair_prompt, list_prompt
        self.max_length, self.name = max_length, name

    def prompt(self, question: RerankQuestion) -> Prompt:
        """Return the rendered prompt, its images in the order of their placeholders."""
        query, *candidates = [(side.text, side.picture is not None) for side in question.sides]
        if question.is_list:
            rendered = self.list_prompt.render(question.instruction, query, candidates)
        else:
            rendered = self.pair_prompt.render(question.instruction, query, candidates[0])
        text = self.processor.apply_chat_template(messages_of(rendered), tokenize=False)
        pictures = tuple(side.picture for side in question.sides if side.picture is not None)
        return Prompt(text, pictures)

    def shortened(self, question: RerankQuestion, length: int) -> RerankQuestion:
        """Return the question with its longest texts truncated until it fits `max_length`.

        Only contents are truncated, at their ends: images, instruction, question and the position of the
        answer stay whole.

        Args:
            question: what is too long.
            length: how many tokens it has.

        Raises:
            ModelError: when even without any content text it would not fit.
        """
        tokenizer = self.processor.tokenizer
        sides = list(question.sides)
        with tokenizing():
            ids = [
                tokenizer(side.text, add_special_tokens=False, verbose=False).input_ids
                for side in sides
            ]
        lengths = list(map(len, ids))
        # Truncated ends may be tokenised anew, into one token more for each text.
        limit = _water_level(lengths, length - self.max_length + len(sides))
        if limit is None:
            raise ModelError(
                f"max_length {self.max_length} is too short for {self.name}: prompt and images "
                f"alone take {length - sum(lengths)} of {length} tokens; raise max_length or lower "
                "max_pixels"
            )
        shorter = [
            side if count <= limit else side._replace(text=tokenizer.decode(row[:limit]))
            for side, row, count in zip(sides, ids, lengths, strict=True)
        ]
        return question._replace(query=shorter[0], candidates=tuple(shorter[1:]))


class QuestionInputs:
    """Questions -> the inputs of one batch; holds no weights, so that a worker process can be sent it.

    Args:
        renderer: of the model's processor and prompts.
        backbone: the model without its head, of which class, configuration and hooks are kept: all
            that it takes to number positions.
    """

    def __init__(self, renderer: QuestionRenderer, backbone: Any) -> None:
        self.renderer = renderer
        self._numbering = _without_weights(backbone)
        self.truncated = 0
        """How many questions were shortened so far."""

    def __call__(self, questions: Sequence[RerankQuestion]) -> dict[str, Tensor]:
        """Return the model's inputs of one batch; see `unime.models.prompt_batch`.

        Raises:
            ModelError: when a question cannot be shortened to `max_length`.
        """
        features = self.whole(questions)
        lengths, most = features["attention_mask"].sum(dim=1).tolist(), self.renderer.max_length
        if max(lengths) <= most:
            return features
        fitting = [
            question if length <= most else self.renderer.shortened(question, length)
            for question, length in zip(questions, lengths, strict=True)
        ]
        self.truncated += sum(length > most for length in lengths)
        features = self.whole(fitting)
        longest = int(features["attention_mask"].sum(dim=1).max())
        if longest > most:
            raise ModelError(
                f"a question of {longest} tokens could not be shortened to max_length {most}; raise "
                "max_length"
            )
        return features

    def whole(self, questions: Sequence[RerankQuestion]) -> dict[str, Tensor]:
        """Return the inputs of questions however long they are."""
        prompts = [self.renderer.prompt(question) for question in questions]
        groups = [question.beginning for question in questions]
        return prompt_batch(prompts, groups, self.renderer.processor, self._numbering)


def _without_weights(backbone: Any) -> Any:
    """Return a module of the same class and configuration, without submodules."""
    bare = object.__new__(type(backbone))
    nn.Module.__init__(bare)
    bare.config, bare.unime_hooks = backbone.config, backbone.unime_hooks
    return bare


def _water_level(lengths: Sequence[int], excess: int) -> int | None:
    """Return the greatest length that, as everyone's limit, removes at least `excess`; or None."""
    for limit in range(max(lengths), -1, -1):
        if sum(max(0, count - limit) for count in lengths) >= excess:
            return limit
    return None
