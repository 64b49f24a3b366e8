"""Which modules of a model are in train mode: those that are trained, and no others.

`model.train()` means all of them. In a frozen vision tower that switches dropout on, and lets batch
normalisation change its running statistics: buffers that no checkpoint keeps drift, and the model that
is saved is not the one that was trained.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from unime.core.errors import ModelError


def train_mode(model: nn.Module, *, recomputes: bool = False) -> None:
    """Put what is trained into train mode, and everything else into evaluation mode.

    A module is trained when it, or a module in it, has a trainable parameter. A module without any
    parameter (dropout, an activation) goes with the nearest one around it that has some: the dropout of
    an adapter is on, that of a frozen layer is off.

    Args:
        model: as it is trained, with or without the wrapper of a launcher.
        recomputes: whether layers are computed again in the backward pass.
    """
    model.eval()
    for module in _trained(model):
        module.training = True
    if recomputes:
        from transformers.modeling_layers import GradientCheckpointingLayer

        # transformers recomputes a layer only where its own flag says training, also a frozen one
        # that gradients merely pass through. What is in the layer stays in evaluation mode.
        for module in model.modules():
            if isinstance(module, GradientCheckpointingLayer):
                module.training = True


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode for a while; each module gets its own mode back."""
    before = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in before.items():
            module.training = training


def refuse_batch_statistics(model: nn.Module) -> None:
    """Refuse to train what normalises by the statistics of its batch.

    Args:
        model: with `requires_grad` as it will be trained.

    Raises:
        ModelError: with the module's name and the reason.
    """
    names = {module: name for name, module in model.named_modules()}
    trained = [module for module in _trained(model) if _gathers_statistics(module)]
    if trained:
        raise ModelError(
            f"{_first(trained, names)}, is in a part that is trained and would normalise by the "
            f"statistics of its batch; {_CHUNKS}; leave that part out of tune.parts"
        )
    always = [m for m in names if isinstance(m, _BatchNorm) and m.running_mean is None]
    if always:
        raise ModelError(
            f"{_first(always, names)}, keeps no running statistics and always normalises by those of "
            f"its batch; {_CHUNKS}; take a model without"
        )


def persistent_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Return the buffers that are saved with a model, by name; views of their current values."""
    found = {}
    for prefix, module in model.named_modules():
        for name, buffer in module.named_buffers(prefix, recurse=False):
            if name.rpartition(".")[2] not in module._non_persistent_buffers_set:
                found[name] = buffer
    return found


_CHUNKS = "a training batch goes through the model in chunks, and the result would depend on how it is cut"


def _first(modules: Sequence[nn.Module], names: dict[nn.Module, str]) -> str:
    first = min(modules, key=names.__getitem__)
    others = f" (and {len(modules) - 1} more like it)" if len(modules) > 1 else ""
    return f"{names[first]}, a {type(first).__name__}{others}"


def _gathers_statistics(module: nn.Module) -> bool:
    # Instance normalisation uses no statistics of other rows, but gathers them where it tracks them.
    return isinstance(module, _BatchNorm) or (
        isinstance(module, _NormBase) and module.track_running_stats
    )


def _trained(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the trained modules among a module and those in it; it stands within a trained one."""
    parameters = list(module.parameters())
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        return
    yield module
    for child in module.children():
        yield from _trained(child)
