"""Several processes as one: who this one is, what all agree on, and who may write.

A launcher (`accelerate launch`, `torchrun`, slurm) starts the same command several times and names
the processes in the environment. Nothing here needs torch until there is more than one.
"""

from __future__ import annotations

import os
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class Ranks(NamedTuple):
    """This process among all."""

    rank: int = 0
    world: int = 1


def ranks() -> Ranks:
    """Return which process this is, and of how many."""
    return Ranks(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


def cores() -> int:
    """Return how many cores this process may use."""
    # Containers often give fewer cores than the machine has; macOS cannot say.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def is_main() -> bool:
    """Tell whether this process is the one that writes and speaks."""
    return ranks().rank == 0


def launched_deepspeed() -> bool:
    """Tell whether accelerate was told to use DeepSpeed."""
    return os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"


def launched_fsdp() -> bool:
    """Tell whether accelerate was told to use FSDP."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def connect() -> None:
    """Let the processes talk to each other; nothing to do for one alone.

    accelerate chooses the backend on GPUs; on CPUs it is gloo.
    """
    if ranks().world == 1:
        return
    import torch

    if torch.cuda.is_available():
        from accelerate import PartialState

        PartialState()
    elif not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo")
    met = torch.distributed.get_world_size()
    assert met == ranks().world, f"{met} of {ranks().world} processes met"


def wait() -> None:
    """Wait until all processes are here."""
    if ranks().world > 1:
        import torch

        torch.distributed.barrier()


def main_decides(value: T) -> T:
    """Return the main process's value on every process."""
    if ranks().world == 1:
        return value
    import torch

    box = [value]
    torch.distributed.broadcast_object_list(box)
    return box[0]


def gather(value: T) -> list[T]:
    """Return every process's value, by rank, on all of them."""
    if ranks().world == 1:
        return [value]
    import torch

    values = [value] * ranks().world
    torch.distributed.all_gather_object(values, value)
    return values


def any_process(value: bool) -> bool:
    """Tell whether a value is true on any process."""
    return any(gather(value))
