"""What a training run leaves on disk: checkpoints that count only when whole, the model, the facts.

transformers writes a checkpoint file by file. `commit` then writes the hashes of all its files
into `complete.json`, atomically; a folder without it, or with a file that does not match, is
damaged and the one before it is used. `facts.json` is written last: where it is, training is over.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unime.core import files
from unime.core.console import log
from unime.core.errors import OutputError
from unime.core.hashes import sha256
from unime.core.processes import is_main, main_decides, wait
from unime.core.provenance import Output
from unime.models.adapters import LoraSection, train_parts
from unime.models.embedder import Embedder
from unime.models.rerank_model import RerankModel

MODEL = "model"
CHECKPOINTS = "checkpoints"
MARK = "complete.json"
WEIGHTS = "model.safetensors"
BEST = "best.safetensors"
LAST = "last.safetensors"
FACTS = "facts.json"


def finished(out: Output) -> bool:
    """Tell whether a killed run has finished this training; then take its facts and clean up."""
    path = out.file(FACTS)
    if not main_decides(path.exists()):
        return False
    out.facts(**files.read_json(path))
    _clean_up(out)
    return True


def finish(out: Output, facts: dict[str, Any]) -> None:
    """Note that training is over, and clean up.

    Args:
        out: the stage's output; holds the model by now.
        facts: for the manifest.
    """
    if is_main():
        files.write_json(out.file(FACTS), facts)
    wait()
    # As they were written, so that a resumed run's manifest is that of one which was never stopped.
    finished(out)


def _clean_up(out: Output) -> None:
    if not is_main():
        return
    if out.file(CHECKPOINTS).exists():
        files.remove_folder(out.file(CHECKPOINTS))
    for name in (BEST, LAST):
        files.remove_file(out.file(name))


def commit(folder: Path) -> None:
    """Mark a checkpoint as complete."""
    hashes = {name: sha256(folder / name) for name in _content(folder)}
    files.write_json(folder / MARK, hashes)


def latest(folder: Path) -> Path | None:
    """Return the newest intact checkpoint, or None; damaged ones are removed and named."""
    for checkpoint in _by_step(folder):
        if is_intact(checkpoint):
            return checkpoint
        log(f"checkpoint {checkpoint} is incomplete or damaged, using the one before it")
        files.remove_folder(checkpoint)
    return None


def is_intact(folder: Path) -> bool:
    """Tell whether all files are as `commit` saw them."""
    if not (folder / MARK).is_file():
        return False
    hashes = files.read_json(folder / MARK)
    return set(_content(folder)) == set(hashes) and all(
        sha256(folder / name) == value for name, value in hashes.items()
    )


def rotate(folder: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints."""
    for checkpoint in _by_step(folder)[keep:]:
        files.remove_folder(checkpoint)


def save_trainable(module: nn.Module, path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write the weights that are trained, in one file; called on all processes, the main writes."""
    weights = {
        name: whole(parameter)
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }
    if is_main():
        with files.atomic_path(path) as temporary:
            save_file(weights, temporary, metadata)
    wait()


def whole(parameter: nn.Parameter) -> Tensor:
    """Return a weight that may be sharded over the processes (FSDP2, ZeRO-3) in one piece."""
    if hasattr(parameter, "full_tensor"):
        return parameter.detach().full_tensor().contiguous()  # type: ignore[attr-defined]
    if hasattr(parameter, "ds_id"):
        import deepspeed

        with deepspeed.zero.GatheredParameters([parameter]):
            return parameter.detach().clone()
    return parameter.detach().contiguous()


def is_sharded(module: nn.Module) -> bool:
    """Tell whether weights are sharded over the processes."""
    return any(hasattr(p, "full_tensor") or hasattr(p, "ds_id") for p in module.parameters())


@torch.no_grad()
def load_trainable(module: nn.Module, path: Path) -> None:
    """Read them back.

    Raises:
        OutputError: when the file is of a model trained in other parts.
    """
    saved: dict[str, Any] = load_file(path)
    ours = {name: p for name, p in module.named_parameters() if p.requires_grad}
    if saved.keys() != ours.keys():
        raise OutputError(
            f"{path} holds {len(saved)} trained weights, this recipe trains {len(ours)}; "
            "it belongs to another `tune` section"
        )
    for name, parameter in ours.items():
        _put(parameter, saved[name])


def _put(parameter: nn.Parameter, value: Tensor) -> None:
    if hasattr(parameter, "device_mesh"):
        from torch.distributed.tensor import distribute_tensor

        mesh, placements = parameter.device_mesh, parameter.placements  # type: ignore[attr-defined]
        parameter.copy_(distribute_tensor(value.to(parameter.device), mesh, placements))  # type: ignore[arg-type]
    elif not hasattr(parameter, "ds_id"):
        parameter.copy_(value)
    # DeepSpeed reads its own copy of a sharded weight from the checkpoint.


def save_trained(model: Embedder | RerankModel, tune: LoraSection, out: Output) -> dict[str, Any]:
    """Write the best weights, else the last, as a whole model; return when they were best."""
    path, best = out.file(BEST), {}
    if path.is_file():
        best = best_facts(path)
        log(f"keeping the weights of step {best['step']}, dev hit@1 {best['hit@1']:.3f}")
    if is_sharded(model.module) or model.config.dtype == "nf4":
        # The main process puts the trained weights into a whole model of its own, which also is the
        # one that 4-bit weights were made of.
        if not best:
            path = out.file(LAST)
            save_trainable(model.module, path)
        model = _fresh(model, tune) if is_main() else model
    if is_main():
        if path.is_file():
            load_trainable(model.module, path)
        model.module.eval()
        with files.atomic_folder(out.file(MODEL)) as temporary:
            model.save(temporary)
    wait()
    return best


def _fresh(model: Embedder | RerankModel, tune: LoraSection) -> Embedder | RerankModel:
    load_whole_models()
    config: Any = model.config
    if config.dtype == "nf4":
        config = config.model_copy(update={"dtype": "bfloat16"})
    prompt: Any = model.prompt
    whole = model.load(config, "cpu", prompt, check=False)
    train_parts(whole.backbone, tune)
    return whole


def load_whole_models() -> None:
    """Make transformers load models whole again: under ZeRO-3 it shards whatever it loads."""
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()


def best_facts(path: Path) -> dict[str, int | float]:
    """Return the step and hit@1 of the best weights."""
    with safe_open(path, framework="pt") as handle:
        metadata = handle.metadata()
    return {"step": int(metadata["step"]), "hit@1": float(metadata["hit@1"])}


def _by_step(folder: Path) -> list[Path]:
    """Return the checkpoint folders, newest first."""
    found = [path for path in folder.glob("checkpoint-*") if path.is_dir()]
    return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)


def _content(folder: Path) -> list[str]:
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != MARK)
    return sorted(path.relative_to(folder).as_posix() for path in found)
