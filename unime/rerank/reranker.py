"""`Reranker.rank(query, candidates)`: a full order, pointwise or listwise; what users hand to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal, NamedTuple, Unpack, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL.Image import Image

from unime.core.config import checked
from unime.core.console import log
from unime.core.errors import DataError, RecipeError, did_you_mean
from unime.data.images import load_file
from unime.data.items import content_id_from_hash, pair_key
from unime.data.pixels import pixels_hash, to_rgb
from unime.data.table_checks import COSINE
from unime.models.image_blocks import KeyedImage
from unime.models.model_config import ModelConfig, RerankConfig
from unime.models.model_folder import ModelSettings, model_section
from unime.models.modes import evaluating
from unime.models.next_token import NextToken
from unime.models.pair_scorer import PairSide
from unime.models.prompt_tokens import PromptTokens
from unime.models.questions import RerankQuestion
from unime.models.rerank_model import RerankModel

Method = Literal["pointwise", "listwise"]
Content = PairSide | str | Path | Image | Mapping[str, Any]
"""A text, the path of an image file, an image, or {"text": ..., "image": ...}."""


class Ranking(NamedTuple):
    """All candidates of a query, best first."""

    order: Int[np.ndarray, " cands"]
    """Places of the candidates as they were given."""
    scores: Float[np.ndarray, " cands"]
    """Of each candidate as it was given. Pointwise: P(yes). Listwise: mean log-probability of its
    label; after sliding windows only the order counts, and the score is minus the rank."""


class Reranker:
    """Ranks a query's candidates; what they share is computed once.

    Example:
        >>> reranker = Reranker("runs/mini/7_rerank")
        >>> reranker.rank("a red circle", [Path("a.png"), {"text": "one circle, red"}]).order
        array([1, 0])
    """

    def __init__(
        self,
        model: RerankModel | str | PathLike[str],
        batch_size: int = 16,
        device: str | None = None,
        **settings: Unpack[ModelSettings],
    ) -> None:
        """Load a reranker.

        Args:
            model: a trained reranker's folder, the output of its training or export, any generative
                vision-language model (folder or Hub id); or a loaded model.
            batch_size: prompts in one forward pass; changes no score.
            device: by default a GPU if there is one.
            settings: of a model that is no trained reranker: prompt, dtype, pixels, length.

        Raises:
            ModelError: when it cannot be loaded.
        """
        if not isinstance(model, RerankModel):
            section = {**model_section(model, "reranker"), **settings}
            config = checked(section, RerankConfig, f"the model {section['id']}")
            model = RerankModel.load(config, device)
        self.model = model
        self._next_token = NextToken(model.model, model.processor, batch_size)

    @classmethod
    def load(
        cls, model: ModelConfig | str, device: str | None = None, batch_size: int = 16
    ) -> Reranker:
        """Load a trained reranker's folder, an export, or any generative vision-language model."""
        config = RerankConfig(id=model) if isinstance(model, str) else model
        return cls(RerankModel.load(config, device), batch_size)

    def rank(
        self,
        query: Content,
        candidates: Sequence[Content],
        instruction: str = "",
        *,
        method: Method | str = "pointwise",
        permutations: int = 3,
        window: int | None = None,
        similarities: Sequence[float] | np.ndarray | None = None,
    ) -> Ranking:
        """Rank candidates.

        Args:
            query: a text, an image (or its path), or {"text": ..., "image": ...}.
            candidates: in the embedder's order, where there is one.
            instruction: of the task.
            method: "pointwise" asks about each candidate; its scores do not depend on order or
                company. "listwise" asks which of a list is best; its scores depend on company,
                and on order only where windows slide.
            permutations: m, listwise: the list is shown in m cyclic orders, evenly spaced, and
                log-probabilities are averaged. m = length shows every candidate in every place.
                The first order follows from the contents alone (`shuffled`).
            window: listwise: how many candidates one prompt holds; at most, and by default, as
                many as there are labels. Longer lists are sorted by windows that slide from the end
                to the front by half their length.
            similarities: the embedder's; P(yes) is then fused with them by the weight fitted on a
                dev split (pointwise only).

        Raises:
            RecipeError: for an argument that means nothing.
        """
        _check(candidates, method, permutations, window, similarities)
        if not candidates:
            return Ranking(np.empty(0, dtype=np.int64), np.empty(0))
        asked, sides = as_side(query), [as_side(candidate) for candidate in candidates]
        if method == "pointwise":
            scores = self.pointwise(asked, sides, instruction)
            if similarities is not None:
                scores = fuse(scores, np.asarray(similarities), self._fusion())
            return Ranking(np.argsort(-scores, kind="stable"), scores)
        most = min(window or len(self.model.labels), len(self.model.labels))
        if len(sides) <= most:
            scores = self.listwise(asked, sides, instruction, permutations)
            return Ranking(np.argsort(-scores, kind="stable"), scores)
        order = self._slide(asked, sides, instruction, permutations, most)
        scores = np.empty(len(order))
        scores[order] = -np.arange(len(order), dtype=float)
        return Ranking(order, scores)

    def score(
        self, pairs: Sequence[tuple[Content, Content]], instruction: str = ""
    ) -> Float[np.ndarray, " pairs"]:
        """Return P(yes | yes or no) of (query, candidate) pairs, float64.

        Args:
            pairs: contents as in `rank`; what the pairs of a query share is computed once.
            instruction: of the task.
        """
        by_query: dict[Any, list[int]] = {}
        questions = []
        for number, (query, candidate) in enumerate(pairs):
            asked = as_side(query)
            picture = None if asked.picture is None else asked.picture.key
            by_query.setdefault((asked.text, picture), []).append(number)
            questions.append(RerankQuestion(instruction, asked, (as_side(candidate),)))
        scores = np.empty(len(questions))
        for numbers in by_query.values():
            scores[numbers] = self.probabilities([questions[number] for number in numbers])
        return scores

    def pointwise(
        self, query: PairSide, candidates: Sequence[PairSide], instruction: str = ""
    ) -> Float[np.ndarray, " cands"]:
        """Return P(yes | yes or no) = sigmoid(z_yes - z_no) of each candidate, float64."""
        questions = [RerankQuestion(instruction, query, (candidate,)) for candidate in candidates]
        return self.probabilities(questions)

    def probabilities(self, questions: Sequence[RerankQuestion]) -> Float[np.ndarray, " questions"]:
        """Return P(yes | yes or no) of each pair question, float64."""
        return _sigmoid(self.log_odds(questions))

    def log_odds(self, questions: Sequence[RerankQuestion]) -> Float[np.ndarray, " questions"]:
        """Return z_yes - z_no of each pair question, float64."""
        return self._ask(questions, [self.model.yes, self.model.no]) @ np.array([1.0, -1.0])

    def listwise(
        self,
        query: PairSide,
        candidates: Sequence[PairSide],
        instruction: str = "",
        permutations: int = 1,
    ) -> Float[np.ndarray, " cands"]:
        """Return each candidate's mean log-probability over cyclic orders of the shuffled list."""
        scores = np.empty(len(candidates))
        order = shuffled(query, candidates)
        shown = [candidates[place] for place in order.tolist()]
        scores[order] = self.by_order(query, shown, instruction, permutations).mean(axis=0)
        return scores

    def by_order(
        self, query: PairSide, candidates: Sequence[PairSide], instruction: str, permutations: int
    ) -> Float[np.ndarray, "orders cands"]:
        """Return each candidate's log-probability in each cyclic order of one list, as given first."""
        count = len(candidates)
        shifts = np.unique(np.arange(min(permutations, count)) * count // min(permutations, count))
        orders = [np.roll(np.arange(count), -shift) for shift in shifts.tolist()]
        questions = [
            RerankQuestion(
                instruction, query, tuple(candidates[place] for place in order), is_list=True
            )
            for order in map(np.ndarray.tolist, orders)
        ]
        scores = np.empty((len(orders), count))
        for number, (order, row) in enumerate(zip(orders, self.choices(questions), strict=True)):
            scores[number, order] = row
        return scores

    def choices(self, questions: Sequence[RerankQuestion]) -> Float[np.ndarray, "questions cands"]:
        """Return the log-probability of each place of lists of one length, in one order each."""
        logits = self._ask(questions, self.model.labels[: len(questions[0].candidates)])
        return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)

    def _slide(
        self,
        query: PairSide,
        candidates: Sequence[PairSide],
        instruction: str,
        permutations: int,
        window: int,
    ) -> Int[np.ndarray, " cands"]:
        """Sort by windows from the end to the front, so that the best can move all the way up."""
        order = np.arange(len(candidates))
        start = len(order) - window
        step = max(1, window // 2)
        while True:
            part = order[start : start + window]
            chosen = [candidates[place] for place in part.tolist()]
            scores = self.listwise(query, chosen, instruction, permutations)
            order[start : start + window] = part[np.argsort(-scores, kind="stable")]
            if start == 0:
                return order
            start = max(0, start - step)

    def _ask(
        self, questions: Sequence[RerankQuestion], answers: Sequence[int]
    ) -> Float[np.ndarray, "questions answers"]:
        """Return the answers' logits, float64, for questions that begin alike."""
        found = np.empty((len(questions), len(answers)))
        with evaluating(self.model.module):
            for places, logits in self._next_token.logits(self._tokenize(questions)):
                found[places] = logits[:, list(answers)].double().cpu().numpy()
        return found

    def _tokenize(self, questions: Sequence[RerankQuestion]) -> list[PromptTokens]:
        renderer, most = self.model.renderer, self.model.config.max_length
        tokens = self._next_token.tokenize([renderer.prompt(q) for q in questions])
        long = [number for number, row in enumerate(tokens) if len(row) > most]
        if not long:
            return tokens
        log(f"{len(long)} of {len(questions)} questions were shortened to max_length {most}")
        short = [renderer.shortened(questions[n], len(tokens[n])) for n in long]
        # All anew: pictures are numbered within one call.
        replaced = dict(zip(long, short, strict=True))
        questions = [replaced.get(number, q) for number, q in enumerate(questions)]
        return self._next_token.tokenize([renderer.prompt(q) for q in questions])

    def _fusion(self) -> float:
        if self.model.fusion is None:
            raise RecipeError(
                "this reranker has no fusion weight: train it with dev rows and a retriever, or "
                "rank without similarities"
            )
        return self.model.fusion


def _check(
    candidates: Sequence[Content],
    method: str,
    permutations: int,
    window: int | None,
    similarities: Sequence[float] | np.ndarray | None,
) -> None:
    """Raise a RecipeError for arguments of `rank` that mean nothing."""
    if isinstance(candidates, str | bytes | Mapping) or not isinstance(candidates, Sequence):
        raise RecipeError(
            f"candidates: expected a list of texts or images, got a {type(candidates).__name__}; "
            "put a single candidate into a list"
        )
    if method not in get_args(Method):
        raise RecipeError(
            f"method '{method}': expected {' or '.join(get_args(Method))}"
            f"{did_you_mean(str(method), get_args(Method))}"
        )
    for name, value, least in (("permutations", permutations, 1), ("window", window, 2)):
        if name == "window" and value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise RecipeError(f"{name}: expected a whole number from {least} on, got {value!r}")
    if similarities is None:
        return
    if method != "pointwise":
        raise RecipeError("similarities are fused with pointwise scores; use method=pointwise")
    values = np.asarray(similarities)
    if values.shape != (len(candidates),) or values.dtype.kind not in "fiu":
        raise RecipeError(
            f"similarities: expected {len(candidates)} numbers, one a candidate, got an array of "
            f"shape {values.shape} and type {values.dtype}"
        )
    if not (np.abs(values) <= COSINE).all():  # NaN too
        raise RecipeError("similarities: expected cosines from -1 to 1")


def as_side(content: Content) -> PairSide:
    """Return a content as a side of a question.

    A string is always a text, whatever it looks like.

    Raises:
        DataError: when it is nothing of the kind, or empty.
    """
    if isinstance(content, PairSide):
        return content
    if isinstance(content, str):
        return PairSide(content)
    if not isinstance(content, Mapping):
        return PairSide("", _picture(content))
    if not content or set(content) - {"text", "image"}:
        raise DataError(f"expected the keys 'text' and 'image', got {sorted(content)}")
    image = content.get("image")
    return PairSide(content.get("text") or "", None if image is None else _picture(image))


def shuffled(query: PairSide, candidates: Sequence[PairSide]) -> Int[np.ndarray, " cands"]:
    """Return an order of candidates in which how they were given leaves no trace.

    A model prefers some places of a list. In this order, by a hash of query and candidate, the
    preference favours no rank of the embedder, and a ranking is the same for any order of its
    candidates.
    """
    asked = _content_id(query)
    keys = [pair_key(asked, "", _content_id(candidate), "") for candidate in candidates]
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.int64)


def fuse(
    probabilities: Float[np.ndarray, " cands"],
    similarities: Float[np.ndarray, " cands"],
    weight: float,
) -> Float[np.ndarray, " cands"]:
    """Return (1 - weight) * similarity + weight * P(yes); weight 1 is the reranker alone."""
    return (1 - weight) * similarities + weight * probabilities


def _picture(image: Any) -> KeyedImage:
    if isinstance(image, str | Path):
        # Opened twice rather than kept: a query may have many candidates.
        return KeyedImage(pixels_hash(load_file(image)), lambda: load_file(image))
    if not isinstance(image, Image):
        raise DataError(f"expected a text, an image or the path of one, got {type(image).__name__}")
    made = to_rgb(image)
    return KeyedImage(pixels_hash(made), lambda: made)


def _content_id(side: PairSide) -> bytes:
    return content_id_from_hash(side.text, None if side.picture is None else side.picture.key)


def _sigmoid(score: np.ndarray) -> np.ndarray:
    return torch.from_numpy(score).sigmoid().numpy()
