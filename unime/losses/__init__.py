"""Losses: pure functions of tensors, one line each in LOSSES.

A loss takes one record (`ContrastBatch`, `RelationBatch` or `RerankBatch`) and keyword options, and returns a
scalar. It knows no model, rank or chunk: the step computes it once on all outputs of a global
batch and back-propagates the gradient chunk by chunk.
"""

from unime.losses.combine import LOSSES, Combined, LossFunction, LossTerm, combine
from unime.losses.info_nce import info_nce
from unime.losses.records import ContrastBatch, RelationBatch, RerankBatch
from unime.losses.relational_kl import relational_kl
from unime.losses.soft_label import soft_label

__all__ = [
    "LOSSES",
    "Combined",
    "ContrastBatch",
    "LossFunction",
    "LossTerm",
    "RelationBatch",
    "RerankBatch",
    "combine",
    "info_nce",
    "relational_kl",
    "soft_label",
]
