"""The in-process engine: a multimodal language model's next-token probabilities of yes and no.

    score = P(yes) / (P(yes) + P(no))

P(yes) adds up every spelling of the prompt's yes-answers that the tokenizer has as one token, and
P(no) likewise. When the two together hold less than `min_answer_mass`, the model was about to say
something else: the pair is unscored, not a no. (UniME-V2, arXiv 2510.13515, section 3.2, reads
the two logits of "Yes" and "No" alone.)

A model trained by `unime rerank` is asked with its own prompt, and scored by its own two answers.

The one module of the judge that needs torch, inside its functions: reading a recipe stays light.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import Field

from unime.core.config import Section
from unime.core.contents import fingerprint
from unime.judge.engine import JudgeInput, KnownTruth, Request, Score
from unime.models.model_config import ModelConfig
from unime.models.prompts import load_judge_prompt

if TYPE_CHECKING:
    from torch import Tensor

    from unime.data.data_folder import DataFolder
    from unime.models.pair_scorer import PairInput, PairSide
    from unime.models.prompt_tokens import Prompt


class JudgeModel(ModelConfig):
    """The judge's model."""

    prompt: str = "judge/yes_no.v1"


class TransformersOptions(Section):
    """A judge that runs in this process."""

    model: JudgeModel
    batch_size: int = Field(default=16, gt=0)
    min_answer_mass: float = Field(default=0.01, ge=0.0, le=1.0)
    """Below this probability of yes and no together, a pair is unscored."""

    def engine(self, truth: KnownTruth | None) -> TransformersEngine:
        """Return the engine; the truth stays unseen."""
        del truth
        return TransformersEngine(self)


class TransformersEngine:
    """Scores pairs with a model in this process."""

    def __init__(self, options: TransformersOptions) -> None:
        from unime.models.answers import single_token_spellings
        from unime.models.backbones import load_generative
        from unime.models.pair_scorer import PairScorer
        from unime.models.rerank_model import RerankModel, facts_of
        from unime.models.self_check import check_next_token

        self._options = options
        if facts_of(options.model.id) is None:
            prompt, most = load_judge_prompt(options.model.prompt), options.model.max_length
            self._model, self._processor, tokenizer = load_generative(options.model)
            self._yes = single_token_spellings(tokenizer, prompt.yes)
            self._no = single_token_spellings(tokenizer, prompt.no)
            self._least = options.min_answer_mass
        else:
            trained = RerankModel.load(options.model, check=False)
            prompt, most = trained.pair_prompt, trained.config.max_length
            self._model, self._processor = trained.model, trained.processor
            # Only the difference of these two logits was trained, not what else is said.
            self._yes, self._no, self._least = [trained.yes], [trained.no], 0.0
        self.scorer = PairScorer(self._model, self._processor, prompt, most, options.batch_size)
        check_next_token(self._model, self._processor, self._prompted, options.model.id)

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
            "prompt": self.scorer.prompt.hash,
            "answers": [self._yes, self._no],
            "preprocessing": preprocessing_of(self._processor),
            "max_length": self.scorer.max_length,
            "min_answer_mass": self._least,
        }
        return json.dumps(parts, sort_keys=True)

    def check_data(self, data: DataFolder, listed: Path) -> None:
        """Refuse a data folder with pictures that the model's image processor does not take."""
        from unime.data.image_processor import check_items

        check_items(data, self._options.model, listed)

    def score(self, requests: Sequence[Request]) -> list[Score]:
        """Return one score per request; what the candidates of a query share is computed once."""
        answers = self.scorer.read([as_pair(request) for request in requests], self._masses)
        return [
            self._judgement(request.key, length, mass)
            for request, length, mass in zip(
                requests, answers.lengths, answers.values.tolist(), strict=True
            )
        ]

    def _prompted(self, query: PairSide, candidate: PairSide) -> Prompt:
        from unime.models.pair_scorer import PairInput

        return self.scorer.prompted(PairInput("", query, candidate))

    def _masses(self, logits: Tensor) -> Tensor:
        from unime.models.answers import answer_masses

        return answer_masses(logits, (self._yes, self._no))

    def _judgement(self, key: bytes, length: int, masses: list[float]) -> Score:
        if length > self.scorer.max_length:
            reason = f"{length} tokens, max_length is {self.scorer.max_length}"
            return Score(key, math.nan, reason)
        yes, no = masses
        mass = yes + no
        if not mass >= self._least or mass == 0:  # NaN too
            return Score(key, math.nan, f"neither yes nor no: their probability is {mass:.2g}")
        return Score(key, yes / mass)


def as_pair(request: Request) -> PairInput:
    """Return a request as a scorer takes it."""
    from unime.models.pair_scorer import PairInput

    return PairInput(request.instruction, _side(request.query), _side(request.candidate))


def _side(content: JudgeInput) -> PairSide:
    from unime.models.image_blocks import KeyedImage
    from unime.models.pair_scorer import PairSide

    picture = None if content.image is None else KeyedImage(content.id, content.image)
    return PairSide(content.text, picture)


class Served(NamedTuple):
    """What a server must be told to prepare inputs as this process would."""

    chat_template: str
    processor_options: dict[str, Any]
    """Options of the image processor that differ from the checkpoint's."""


def served(config: ModelConfig) -> Served:
    """Return template and image sizes of a model; its weights are not loaded."""
    from unime.core.loading import load_processor
    from unime.models.processor import prepare_processor

    processor = load_processor(config.id, config.revision)
    before = _image_sizes(processor)
    prepare_processor(processor, config, "left", images_first=False)
    after = _image_sizes(processor)
    changed = {name: value for name, value in after.items() if value != before[name]}
    return Served(processor.chat_template, changed)


def _image_sizes(processor: Any) -> dict[str, Any]:
    images = processor.image_processor
    values: dict[str, Any] = {
        name: getattr(images, name, None) for name in ("size", "image_grid_pinpoints")
    }
    return {n: dict(v) if hasattr(v, "items") else v for n, v in values.items()}
