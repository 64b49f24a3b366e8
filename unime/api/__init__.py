"""The stages from Python, on plain values: what `from unime import ...` gives.

Nothing here computes: each function runs a stage on the values that a recipe would hold.
"""

from unime.api.calls import (
    evaluate,
    export_model,
    judge_candidates,
    mine_negatives,
    select_negatives,
)
from unime.api.results import (
    EvaluationResult,
    ExportedModel,
    JudgedCandidates,
    MinedNegatives,
    SelectedNegatives,
    TrainedModel,
)
from unime.api.training import train_embedder, train_reranker
from unime.api.user_data import load_data

__all__ = [
    "EvaluationResult",
    "ExportedModel",
    "JudgedCandidates",
    "MinedNegatives",
    "SelectedNegatives",
    "TrainedModel",
    "evaluate",
    "export_model",
    "judge_candidates",
    "load_data",
    "mine_negatives",
    "select_negatives",
    "train_embedder",
    "train_reranker",
]
