"""A language-model head that computes and returns float32, whatever its weights are stored as.

Logits of 16 and more have a resolution of 1/8 in bfloat16: P(yes) would come in steps of 0.03, and one
rounding the other way, in another library or another batch, is such a step.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

AT_ONCE = 2**14
"""Rows of the weights that are in float32 at one time: all of them may take gigabytes."""


class ExactHead(nn.Linear):
    """Stands where a half-precision linear layer stands, with its weights."""

    def forward(
        self,
        input: Float[Tensor, "*batch dim"],  # noqa: A002
        rows: Int[Tensor, " rows"] | None = None,
    ) -> Float[Tensor, "*batch out"]:
        """Return the logits of some answers, or of the whole vocabulary."""
        weight = self.weight if rows is None else self.weight[rows]
        with torch.autocast(input.device.type, enabled=False):
            parts = [functional.linear(input.float(), w.float()) for w in weight.split(AT_ONCE)]
        logits = torch.cat(parts, dim=-1)
        if self.bias is None:
            return logits
        return logits + (self.bias if rows is None else self.bias[rows]).float()


def make_head_exact(model: Any) -> None:
    """Let a generative model's head compute in float32, if it is stored in half precision; in place."""
    head = model.get_output_embeddings()
    if type(head) is nn.Linear and head.weight.dtype in (torch.bfloat16, torch.float16):
        head.__class__ = ExactHead


def answer_logits(
    model: Any, hidden: Float[Tensor, "batch dim"], answers: Int[Tensor, " answers"]
) -> Float[Tensor, "batch answers"]:
    """Return the logits of some answers in float32.

    By the head's own forward pass: where weights are sharded, nothing else gathers them.
    """
    head = model.get_output_embeddings()
    if isinstance(head, ExactHead):
        return head(hidden, answers)
    return head(hidden)[:, answers].float()
