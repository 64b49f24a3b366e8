"""A generative vision-language model as a reranker: logits of a few answers at the last position."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from unime.core import files
from unime.models import self_check
from unime.models.adapters import merged
from unime.models.answers import single_token
from unime.models.backbones import load_generative
from unime.models.exact_head import answer_logits, make_head_exact
from unime.models.hooks import Hooks, hooks_of
from unime.models.model_config import ModelConfig, RerankConfig
from unime.models.pair_scorer import PairSide
from unime.models.processor import preprocessing_of
from unime.models.prompt_batch import last_hidden
from unime.models.prompt_tokens import Prompt
from unime.models.prompts import JudgePrompt, ListPrompt, load_judge_prompt, load_list_prompt
from unime.models.questions import QuestionInputs, QuestionRenderer, RerankQuestion
from unime.models.shared_prefix import SharesPrefix
from unime.models.vision_input import VisionInput

FACTS = "unime.json"


class AnswerLogits(SharesPrefix):
    """The trained module: features -> logits of yes, no and the labels, in this order."""

    answers: Tensor

    def __init__(self, model: Any, answers: Sequence[int], hooks: Hooks) -> None:
        super().__init__()
        self.model, self.hooks = model, hooks
        self.register_buffer("answers", torch.tensor(answers), persistent=False)

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return `(batch, answers)` under the name that the trainer reads its outputs from."""
        backbone = getattr(self.model, self.model.base_model_prefix)
        hidden = last_hidden(backbone, self.hooks, features, share=self.shares_prefix)
        return {"sentence_embedding": answer_logits(self.model, hidden, self.answers)}


class RerankModel:
    """What is trained, saved and loaded; offers the trainer what an `Embedder` offers it."""

    def __init__(
        self,
        model: Any,
        processor: Any,
        config: RerankConfig,
        prompts: tuple[JudgePrompt, ListPrompt],
        fusion: float | None = None,
    ) -> None:
        self.model, self.processor, self.config = model, processor, config
        self.fusion = fusion
        """Weight of the reranker beside the embedder's similarity; None before it is fitted."""
        self.pair_prompt, self.list_prompt = prompts
        self.renderer = QuestionRenderer(processor, *prompts, config.max_length, config.id)
        tokenizer = processor.tokenizer
        self.yes = single_token(tokenizer, self.pair_prompt.yes)
        self.no = single_token(tokenizer, self.pair_prompt.no)
        self.labels = [single_token(tokenizer, [label]) for label in self.list_prompt.labels]
        self.vision = VisionInput.of(self.backbone, processor.image_processor)
        hooks = hooks_of(self.backbone, processor)
        self.inputs = QuestionInputs(self.renderer, self.backbone)
        answers = [self.yes, self.no, *self.labels]
        self.module = AnswerLogits(model, answers, hooks)
        self.network = self.module
        """What the trainer calls."""
        make_head_exact(model)
        # The answers' rows of the head stay: what is trained is named by the recipe's `tune`.
        model.requires_grad_(False)

    @classmethod
    def load(
        cls,
        config: ModelConfig,
        device: str | None = None,
        prompt: JudgePrompt | None = None,
        *,
        check: bool = True,
    ) -> RerankModel:
        """Load any generative vision-language model, or a trained reranker with its own prompts.

        Args:
            config: of a trained reranker only `id`, `revision` and `dtype` count; how it is asked,
                and how its inputs are prepared, is what its folder says.
            device: by default a GPU if there is one.
            prompt: in place of the pair prompt.
            check: run the self-check (`unime.models.self_check`), in both ways of asking.

        Raises:
            ModelError: when it is no vision-language model, an answer is not one token, or it fails
                its self-check.
        """
        facts = facts_of(config.id)
        ours = _config(config, facts)
        prompts = (
            pair_prompt_of(facts["prompt"]) if facts else load_judge_prompt(ours.prompt),
            _list_prompt(facts["list_prompt"]) if facts else load_list_prompt(ours.list_prompt),
        )
        model, processor, _ = load_generative(ours, device)
        fusion = facts["fusion"] if facts else None
        loaded = cls(model, processor, ours, (prompt or prompts[0], prompts[1]), fusion)
        if check and self_check.has_own_weights(model):
            loaded.check()
        return loaded

    def check(self) -> None:
        """Run the self-check on the network that is trained, and on next tokens as `Reranker` asks.

        Raises:
            ModelError: when it does not see images or does not read texts.
        """
        with self_check.answering(self.config.id), torch.inference_mode():
            outputs = self.forward(self.check_features())
        self_check.refuse(self_check.blindness(outputs, self.model.dtype), self.config.id)
        self_check.check_next_token(self.model, self.processor, self._pair, self.config.id)

    @property
    def backbone(self) -> Any:
        """The model without its head: what adapters go into."""
        return getattr(self.model, self.model.base_model_prefix)

    @property
    def prompt(self) -> JudgePrompt:
        """The pair prompt."""
        return self.pair_prompt

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    @property
    def truncated(self) -> int:
        """How many questions were shortened so far."""
        return self.inputs.truncated

    def features(self, questions: Sequence[RerankQuestion]) -> dict[str, Tensor]:
        """Return the model's inputs of one batch; see `QuestionInputs`."""
        return self.inputs(questions)

    def check_features(self) -> dict[str, Tensor]:
        """Return the inputs of the self-check, whatever `max_length` says, as the network takes them."""
        sides = self_check.probe_sides(self.processor.tokenizer, self._pair)
        return self.inputs.whole([RerankQuestion("", query, (other,)) for query, other in sides])

    def forward(self, features: Mapping[str, Tensor]) -> Float[Tensor, "batch answers"]:
        """Return the logits of yes, no and the labels."""
        inputs = {key: value.to(self.device) for key, value in features.items()}
        return self.module(inputs)["sentence_embedding"]

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Everything beside the weights that decides a score."""
        return {
            **preprocessing_of(self.processor),
            "max_length": self.config.max_length,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "prompt": self.pair_prompt.id,
            "prompt_hash": self.pair_prompt.hash,
            "list_prompt": self.list_prompt.id,
            "list_prompt_hash": self.list_prompt.hash,
            "answers": [self.yes, self.no, *self.labels],
        }

    def save(self, folder: Path | str) -> None:
        """Write merged weights, processor and facts as a plain Hugging Face folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with merged(self.model):
            self.model.save_pretrained(folder)
        self.save_processor(folder)
        files.write_json(folder / FACTS, self.facts)

    def save_processor(self, folder: Path) -> None:
        """Write processor, tokenizer and wrapped template."""
        # The last call's padding would be saved with the tokenizer, and make equal models differ.
        self.processor.tokenizer.backend_tokenizer.no_padding()
        self.processor.tokenizer.backend_tokenizer.no_truncation()
        self.processor.save_pretrained(folder)

    @property
    def facts(self) -> dict[str, Any]:
        """What a model folder says about how it is to be asked."""
        text = json.dumps(self.preprocessing, sort_keys=True)
        return {
            "kind": "reranker",
            "model": self.config.model_dump(mode="json", exclude={"id", "revision"}),
            "preprocessing": self.preprocessing,
            "fingerprint": hashlib.sha256(text.encode()).hexdigest(),
            "prompt": {
                **_named(self.pair_prompt),
                "yes": list(self.pair_prompt.yes),
                "no": list(self.pair_prompt.no),
            },
            "list_prompt": {**_named(self.list_prompt), "labels": list(self.list_prompt.labels)},
            "answers": {"yes": self.yes, "no": self.no, "labels": self.labels},
            "fusion": self.fusion,
        }

    def _pair(self, query: PairSide, candidate: PairSide) -> Prompt:
        return self.renderer.prompt(RerankQuestion("", query, (candidate,)))


def facts_of(model: str) -> dict[str, Any] | None:
    """Return what a trained reranker's folder says; None for any other model."""
    path = Path(model) / FACTS
    if not path.is_file():
        return None
    facts = files.read_json(path)
    return facts if facts.get("kind") == "reranker" else None


def _config(config: ModelConfig, facts: dict[str, Any] | None) -> RerankConfig:
    if facts is None:
        if isinstance(config, RerankConfig):
            return config
        # An embedder's or a judge's prompt is none of a reranker's.
        return RerankConfig(**config.model_dump(exclude={"prompt"}))
    dtype = facts["model"]["dtype"] if config.dtype == "auto" else config.dtype
    own = {"id": config.id, "revision": config.revision, "dtype": dtype}
    return RerankConfig(**{**facts["model"], **own})


def pair_prompt_of(values: dict[str, Any]) -> JudgePrompt:
    """Return the pair prompt that a trained reranker's facts hold."""
    return JudgePrompt(**{**values, "yes": tuple(values["yes"]), "no": tuple(values["no"])})


def _list_prompt(values: dict[str, Any]) -> ListPrompt:
    return ListPrompt(**{**values, "labels": tuple(values["labels"])})


def _named(prompt: JudgePrompt | ListPrompt) -> dict[str, Any]:
    return {"id": prompt.id, "hash": prompt.hash, "levels": dict(prompt.levels)}
