"""The in-process engine: a multimodal language model's next-token probabilities of yes and no.

    score = P(yes) / (P(yes) + P(no))

P(yes) adds up every spelling of the prompt's yes-answers that the tokenizer has as one token, and
P(no) likewise. When the two together hold less than `min_answer_mass`, the model was about to say
something else: the pair is unscored, not a no. (UniME-V2, arXiv 2510.13515, section 3.2, reads
the two logits of "Yes" and "No" alone.)

The one module of the judge that needs torch, inside its functions: reading a recipe stays light.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from judge.engine import Content, Request, Truth
from unime.config import ModelConfig, Section
from unime.errors import ModelError
from unime.prompts import load_judge_prompt
from unime.provenance import fingerprint
from unime.records import Score

if TYPE_CHECKING:
    from jaxtyping import Float
    from PIL.Image import Image
    from torch import Tensor


class JudgeModel(ModelConfig):
    """The judge's model."""

    prompt: str = "judge/yes_no.v1"


class TransformersOptions(Section):
    """A judge that runs in this process."""

    model: JudgeModel
    batch_size: int = Field(default=16, gt=0)
    min_answer_mass: float = Field(default=0.01, ge=0.0, le=1.0)
    """Below this probability of yes and no together, a pair is unscored."""

    def engine(self, truth: Truth | None) -> TransformersEngine:
        """Return the engine; the truth stays unseen."""
        del truth
        return TransformersEngine(self)


class TransformersEngine:
    """Scores pairs with a model in this process."""

    def __init__(self, options: TransformersOptions) -> None:
        from unime.models.generative import load_generative

        self._options = options
        self._prompt = load_judge_prompt(options.model.prompt)
        self._model, self._processor, self._tokenizer = load_generative(options.model)
        self._yes = single_token_spellings(self._tokenizer, self._prompt.yes)
        self._no = single_token_spellings(self._tokenizer, self._prompt.no)

    @property
    def fingerprint(self) -> str:
        """Model, prompt, answer tokens and preprocessing; batch size changes no score."""
        from unime.models.processor import preprocessing_of

        model = self._options.model
        parts = {
            "engine": "transformers",
            "model": fingerprint(Path(model.id)),
            "revision": model.revision,
            "dtype": str(self._model.dtype),
            "prompt": self._prompt.hash,
            "answers": [self._yes, self._no],
            "preprocessing": preprocessing_of(self._processor),
            "max_length": model.max_length,
            "min_answer_mass": self._options.min_answer_mass,
        }
        return json.dumps(parts, sort_keys=True)

    def score(self, requests: Sequence[Request]) -> list[Score]:
        """Return one score per request; similar lengths share a batch."""
        images = _Images()
        scores: dict[int, Score] = {}
        for batch in _batches_by_length(requests, self._options.batch_size):
            values = self._score_batch([requests[number] for number in batch], images)
            scores.update(zip(batch, values, strict=True))
        return [scores[number] for number in range(len(requests))]

    def _score_batch(self, requests: Sequence[Request], images: _Images) -> list[Score]:
        features = self._features(requests, images)
        lengths = features["attention_mask"].sum(dim=1).tolist()
        masses = self._answer_masses(features).tolist()
        return [
            self._judgement(request.key, length, *mass)
            for request, length, mass in zip(requests, lengths, masses, strict=True)
        ]

    def _features(self, requests: Sequence[Request], images: _Images) -> dict[str, Any]:
        """Return the model's inputs, padded on the left: the answer is the last position's."""
        pictures = [
            [
                images.open(content)
                for content in (request.query, request.candidate)
                if content.image
            ]
            for request in requests
        ]
        texts = [self._rendered(request) for request in requests]
        begin = self._tokenizer.bos_token
        batch = self._processor(
            text=texts,
            images=pictures if pictures[0] else None,
            # A template that writes the begin token itself gets no second one.
            add_special_tokens=begin is None or not texts[0].startswith(begin),
            padding=True,
            padding_side="left",
            return_tensors="pt",
        )
        return dict(batch.to(self._model.device))

    def _rendered(self, request: Request) -> str:
        query, candidate = request.query, request.candidate
        rendered = self._prompt.render(
            request.instruction,
            (query.text, query.image is not None),
            (candidate.text, candidate.image is not None),
        )
        user = {"role": "user", "content": [*rendered.query, *rendered.candidate]}
        system = {"role": "system", "content": [{"type": "text", "text": rendered.system}]}
        return self._processor.apply_chat_template(
            [system, user] if rendered.system else [user],
            tokenize=False,
            add_generation_prompt=True,
        )

    def _answer_masses(self, features: dict[str, Any]) -> Float[Tensor, "batch 2"]:
        """Return the probabilities of yes and of no as the next token, float64."""
        import torch

        with torch.inference_mode():
            logits = self._model(**features, logits_to_keep=1, use_cache=False).logits[:, -1]
        probabilities = logits.double().softmax(dim=-1)
        return torch.stack(
            [probabilities[:, ids].sum(dim=1) for ids in (self._yes, self._no)], dim=1
        )

    def _judgement(self, key: bytes, length: int, yes: float, no: float) -> Score:
        most = self._options.model.max_length
        if length > most:
            # Cutting the text would judge another pair than the one asked about.
            return Score(key, math.nan, f"{length} tokens, max_length is {most}")
        mass = yes + no
        if not mass >= self._options.min_answer_mass:  # NaN too
            return Score(key, math.nan, f"neither yes nor no: their probability is {mass:.2g}")
        return Score(key, yes / mass)


def single_token_spellings(tokenizer: Any, answers: Sequence[str]) -> list[int]:
    """Return the ids of all single tokens that spell one of the answers.

    Raises:
        ModelError: when the tokenizer has none.
    """
    words = {word for answer in answers for word in (answer, answer.lower(), answer.capitalize())}
    words |= {answer.upper() for answer in answers}
    found = set()
    for spelling in sorted(words | {f" {word}" for word in words}):
        ids = tokenizer.encode(spelling, add_special_tokens=False)
        # A word the vocabulary lacks may come back as one unknown token: read it back.
        if len(ids) == 1 and tokenizer.decode(ids).strip() == spelling.strip():
            found.add(ids[0])
    if not found:
        raise ModelError(
            f"the judge's tokenizer has no single token for any of the answers {sorted(words)}; "
            "use a prompt file with answers it has"
        )
    return sorted(found)


class _Images:
    """Opens each distinct image once for one call of `score`."""

    def __init__(self) -> None:
        self._opened: dict[bytes, Image] = {}

    def open(self, content: Content) -> Image:
        assert content.image is not None, content.id.hex()
        if content.id not in self._opened:
            self._opened[content.id] = content.image()
        return self._opened[content.id]


def _batches_by_length(requests: Sequence[Request], batch_size: int) -> Iterator[list[int]]:
    """Yield batches of request numbers; a batch has one number of images, and similar lengths."""

    def images(number: int) -> int:
        request = requests[number]
        return (request.query.image is not None) + (request.candidate.image is not None)

    def size(number: int) -> tuple[int, int, int]:
        query, candidate = requests[number].query, requests[number].candidate
        pixels = query.pixels + candidate.pixels
        return images(number), pixels, len(query.text) + len(candidate.text)

    order = sorted(range(len(requests)), key=size)
    for _, group in itertools.groupby(order, key=images):
        numbers = list(group)
        for start in range(0, len(numbers), batch_size):
            yield numbers[start : start + batch_size]
