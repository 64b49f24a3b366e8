"""Embedder and reranker together: the first candidates of each query, ordered anew.

A reranker takes part as similarities, like any model: what it has scored lies above everything it
has not, and every runner, metric and tie rule stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from pydantic import Field

from unime.core.config import Section
from unime.core.console import progress
from unime.core.errors import ModelError
from unime.data.pixels import to_rgb
from unime.eval.pool import Pool
from unime.eval.similarity import Similarities
from unime.models.inputs import ModelInput

if TYPE_CHECKING:
    from unime.models.inputs import ModelInput

BELOW = 4.0
"""Taken off similarities that were not reranked: more than cosine and probability can differ by."""
BLOCK = 512
"""Pairs that are decoded at the same time."""


class RerankerChoice(Section):
    """A reranker and how far it reaches."""

    id: str
    """What `unime rerank` or `unime export` wrote, or any folder or Hub id that sentence-transformers
    loads as a CrossEncoder."""
    top_k: int = Field(default=10, gt=0)
    """How many of each query's candidates it orders; candidates level with the last one too."""
    weight: float = Field(default=1.0, ge=0, le=1)
    """1 orders by its score alone, less mixes the embedder's similarity in."""
    batch_size: int = Field(default=16, gt=0)


@runtime_checkable
class SecondStage(Protocol):
    """What a loaded reranker offers."""

    def score(self, pairs: Sequence[tuple[ModelInput, ModelInput]]) -> np.ndarray:
        """Return (pairs,) probabilities of relevance in [0, 1]."""
        ...


def load_reranker(choice: RerankerChoice) -> SecondStage:
    """Load a reranker.

    Raises:
        ModelError: when it cannot be loaded.
    """
    from unime.models.rerank_model import facts_of

    if facts_of(choice.id) is not None:
        from unime.rerank import Reranker

        return TrainedScorer(Reranker.load(choice.id, batch_size=choice.batch_size))
    from unime.core.loading import load_cross_encoder

    return CrossEncoderScorer(load_cross_encoder(choice.id), choice.batch_size)


class TrainedScorer:
    """A reranker trained here, asked as in training; what a query's pairs share is computed once."""

    def __init__(self, reranker: Any) -> None:
        self._reranker = reranker

    def score(self, pairs: Sequence[tuple[ModelInput, ModelInput]]) -> np.ndarray:
        """Return (pairs,) probabilities of relevance."""
        from unime.models.questions import RerankQuestion

        questions = [
            RerankQuestion(query.instruction, _side(query), (_side(target),))
            for query, target in pairs
        ]
        return self._reranker.probabilities(questions).astype(np.float32)


class CrossEncoderScorer:
    """A sentence-transformers CrossEncoder; the instruction goes before the query's text."""

    def __init__(self, module: Any, batch_size: int) -> None:
        self._module, self._batch_size = module, batch_size

    def score(self, pairs: Sequence[tuple[ModelInput, ModelInput]]) -> np.ndarray:
        """Return (pairs,) probabilities of relevance."""
        import torch

        inputs = [(_input(query, query.instruction), _input(target, "")) for query, target in pairs]
        scores = self._module.predict(
            inputs,
            batch_size=self._batch_size,
            activation_fn=torch.nn.Sigmoid(),
            show_progress_bar=False,
        )
        return np.asarray(scores, dtype=np.float32)


class Reranked:
    """The similarities of an embedder, its first candidates scored by a reranker."""

    def __init__(
        self, base: Similarities, scorer: SecondStage, pool: Pool, choice: RerankerChoice
    ) -> None:
        self._base, self._scorer, self._pool, self._choice = base, scorer, pool, choice

    def pairs(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Return (n,) scores of all pairs: a comparison has few candidates."""
        return self._mixed(left, right, self._base.pairs(left, right))

    def blocks(
        self, queries: np.ndarray, candidates: np.ndarray
    ) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield (query slice, similarities), each query's first candidates scored."""
        for part, block in self._base.blocks(queries, candidates):
            rows, columns = np.nonzero(block >= _cuts(block, self._choice.top_k)[:, None])
            found = self._mixed(
                queries[part][rows], candidates[columns], np.asarray(block[rows, columns])
            )
            result = block - BELOW
            result[rows, columns] = found
            yield part, result

    def listed(
        self,
        queries: np.ndarray,
        candidates: np.ndarray,
        position: np.ndarray,
        offsets: np.ndarray,
    ) -> np.ndarray:
        """Return (total,) similarities of each query with its own list."""
        base = self._base.listed(queries, candidates, position, offsets)
        spans = [slice(start, end) for start, end in pairwise(offsets)]
        cuts = [_cuts(base[span][None], self._choice.top_k)[0] for span in spans]
        lengths = np.diff(offsets)
        entries = np.flatnonzero(base >= np.repeat(np.array(cuts, dtype=np.float32), lengths))
        owners = np.repeat(np.arange(len(lengths)), lengths)[entries]
        found = self._mixed(queries[owners], candidates[position[entries]], base[entries])
        result = base - BELOW
        result[entries] = found
        return result

    def _mixed(self, left: np.ndarray, right: np.ndarray, base: np.ndarray) -> np.ndarray:
        """Score distinct pairs once."""
        keys = left.astype(np.int64) * len(self._pool) + right
        distinct, places = np.unique(keys, return_inverse=True)
        scores = np.empty(len(distinct), dtype=np.float32)
        # In order of queries, and so many at a time that their pictures fit in memory.
        for start in progress(range(0, len(distinct), BLOCK), label="reranking", unit="block"):
            pairs = [divmod(int(key), len(self._pool)) for key in distinct[start : start + BLOCK]]
            scores[start : start + BLOCK] = self._scorer.score(
                [(self._pool.encode(query), self._pool.encode(target)) for query, target in pairs]
            )
        if not ((scores >= 0) & (scores <= 1)).all():
            raise ModelError(
                f"the reranker {self._choice.id} gave scores outside [0, 1] or NaN; expected "
                "probabilities of relevance"
            )
        weight = self._choice.weight
        return (weight * scores[places] + (1 - weight) * base).astype(np.float32)


def _cuts(block: np.ndarray, k: int) -> np.ndarray:
    """Return (n,) the k-th highest similarity of each row."""
    k = min(k, block.shape[1])
    return -np.partition(-block, k - 1, axis=1)[:, k - 1]


def _side(encode: ModelInput) -> Any:
    from unime.rerank.reranker import as_side

    return as_side({"text": encode.text, "image": encode.image})


def _input(encode: ModelInput, instruction: str) -> Any:
    text = "\n".join(part for part in (instruction, encode.text) if part)
    if encode.image is None:
        return text
    image = to_rgb(encode.image)
    return {"image": image, "text": text} if text else image
