"""Muon for a CPU: orthogonalised momentum for matrices, in fp32 and same shapes together.

`torch.optim.Muon` iterates in bfloat16, which a CPU without such instructions emulates: four fifths
of a training step went there. Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon;
update scaled to AdamW's size as in Moonlight (arXiv 2502.16982, eq. 4).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

COEFFICIENTS = (3.4445, -4.775, 2.0315)
STEPS = 5


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, its singular values all brought near one.

    Args:
        parameters: matrices.
        lr: comparable to AdamW's.
        momentum: of the gradients' moving average.
        weight_decay: decoupled.
        bf16: iterate in bfloat16, which is enough where the processor has instructions for it.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        bf16: bool = False,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self._dtype = torch.bfloat16 if bf16 else torch.float32

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take a step for all parameters that have a gradient; no closure is called."""
        assert closure is None, "Muon takes no closure"
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes[parameter.shape].append(parameter)
            for shape, parameters in shapes.items():
                momenta = torch.stack([self._momentum(p, group) for p in parameters])
                updates = orthogonalise(momenta.to(self._dtype)).to(momenta.dtype)
                scale = 0.2 * max(shape) ** 0.5
                for parameter, update in zip(parameters, updates, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(update, alpha=-group["lr"] * scale)

    def _momentum(self, parameter: Tensor, group: dict[str, Any]) -> Tensor:
        assert parameter.grad is not None
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        average = state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
        return parameter.grad.lerp(average, group["momentum"])


def orthogonalise(
    matrices: Float[Tensor, "matrices rows columns"],
) -> Float[Tensor, "matrices rows columns"]:
    """Bring all singular values near one (between about 0.7 and 1.2) by Newton-Schulz steps."""
    a, b, c = COEFFICIENTS
    flat = matrices.shape[1] > matrices.shape[2]
    found = matrices.mT if flat else matrices
    found = found / found.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(STEPS):
        gram = found @ found.mT
        found = a * found + (b * gram + c * gram @ gram) @ found
    return found.mT if flat else found
