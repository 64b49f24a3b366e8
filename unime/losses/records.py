"""What a loss is given: the embeddings of one global batch and index tensors into them."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class ContrastBatch:
    """Queries, and the distinct target inputs of the batch that they choose among.

    Every candidate is one distinct input, so however many rows name it, it counts once in a
    denominator. All embeddings are L2-normalised; a similarity is a cosine.
    """

    query: Float[Tensor, "batch dim"]
    """Embedding of each row's query."""
    candidates: Float[Tensor, "cands dim"]
    """Embeddings of the distinct targets of the batch: positives and mined negatives."""
    positive: Int[Tensor, " batch"]
    """Row of `candidates` that answers each query."""
    negatives: Int[Tensor, "batch negs"]
    """Rows of `candidates` given as negatives of each query; -1 = absent."""
    scores: Float[Tensor, "batch 1+negs"]
    """Judge scores in [0, 1], the positive's first; NaN = unscored."""
    allowed: Bool[Tensor, "batch cands"]
    """Whether a candidate may be a negative of a query: no known positive, not its own content."""
    related: Bool[Tensor, "batch cands"]
    """Candidates that are further known positives of a query: those that an objective with several
    positives may pull towards it. Not among them are the query's own content and the content of its
    own positive, under whatever instruction. `allowed` cannot tell these apart, as it leaves all of
    them out; nor does `related` depend on it: it is the same where the recipe masks nothing."""
    query_id: Int[Tensor, " batch"]
    """Number of the distinct query input of each row; rows with one query share it."""


@dataclass(frozen=True)
class RelationBatch:
    """The same distinct texts embedded by student and teacher; dimensions may differ."""

    student: Float[Tensor, "batch dim"]
    teacher: Float[Tensor, "batch teacher_dim"]


@dataclass(frozen=True)
class RerankBatch:
    """A reranker's answers about the candidates of each query, and about lists of them.

    A score is a log-odds: s = z_yes - z_no, the probability of yes is sigmoid(s).
    """

    yes: Float[Tensor, "batch slots"]
    """z_yes, the logit of the answer yes; the positive's first."""
    no: Float[Tensor, "batch slots"]
    """z_no."""
    present: Bool[Tensor, "batch slots"]
    """Whether a slot holds a candidate; the first always does."""
    scores: Float[Tensor, "batch slots"]
    """Judge scores in [0, 1]; NaN = unscored."""
    choice: Float[Tensor, "lists labels"]
    """Logits of the labels that name the places of a shuffled list; -inf beyond its length."""
    gold: Int[Tensor, " lists"]
    """The positive's place in each list."""
