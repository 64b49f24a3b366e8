"""What all training stages do once they have a source of batches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from unime.core import files
from unime.core.console import log
from unime.core.errors import Terminated
from unime.core.processes import is_main, main_decides, ranks, wait
from unime.core.provenance import Output
from unime.losses import LossFunction
from unime.models.adapters import LoraSection, train_parts
from unime.models.modes import refuse_batch_statistics
from unime.train import checkpoints
from unime.train.backends import refuse_impossible
from unime.train.loader import Source
from unime.train.sampler import TaskBatches
from unime.train.settings import TrainingSection
from unime.train.trainable import Trainable

MODEL = "model"
CHECKPOINTS = "checkpoints"
LAST = "last.safetensors"


def train_once(out: Output, training: TrainingSection, train: Callable[[], dict[str, Any]]) -> None:
    """Run a stage's training unless a killed run has finished it, then clean up.

    Args:
        out: gets the facts.
        training: the optimisation, which this launch must be able to do.
        train: writes `<output>/model` and returns the facts of the manifest.
    """
    refuse_impossible(gradient_accumulation_steps=training.gradient_accumulation_steps)
    out.facts(**keep(out.file("facts.json"), train))
    if not is_main():
        return
    if out.file(CHECKPOINTS).exists():
        files.remove_folder(out.file(CHECKPOINTS))
    for name in (checkpoints.BEST, LAST):
        files.remove_file(out.file(name))


def keep(path: Path, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Compute a value, on all processes, or read it where a killed run has left it."""
    if not main_decides(path.exists()):
        value = compute()
        if is_main():
            files.write_json(path, value)
        wait()
    return files.read_json(path)


def fit(
    *,
    embedder: Trainable,
    tune: LoraSection,
    training: TrainingSection,
    source: Source,
    batches: TaskBatches,
    loss: LossFunction,
    evaluate: Callable[[], dict[str, float]] | None,
    out: Output,
) -> dict[str, Any]:
    """Train to the end, resuming where a killed run stopped, and write `<output>/model`.

    Args:
        embedder: an embedder or a reranker, not adapted yet; holds the trained weights afterwards.
        tune: what is trained.
        training: the optimisation.
        source: batch number -> prepared batch.
        batches: the sequence the source follows.
        loss: record -> total and parts.
        evaluate: returns metrics with "hit@1", or None to keep the last weights.
        out: the stage's output.

    Returns:
        Facts for the manifest.
    """
    from transformers import set_seed

    from unime.train.trainer import CachedTrainer

    out.note(processes=ranks().world)
    set_seed(training.seed)
    train_parts(embedder.backbone, tune)
    refuse_batch_statistics(embedder.backbone)
    steps = training.steps(batches.epoch_length)
    trainer = CachedTrainer(
        embedder=embedder,
        source=source,
        batches=batches,
        loss=loss,
        arguments=training.arguments(out.file(CHECKPOINTS), steps, evaluates=evaluate is not None),
        out=out,
        evaluate=evaluate,
        training=training,
    )
    if not trainer.run():
        raise Terminated
    best = _save(embedder, tune, out)
    return {"steps": steps, "best": best, "preprocessing": embedder.preprocessing}


def _save(embedder: Trainable, tune: LoraSection, out: Output) -> dict[str, Any]:
    """Write the best weights, else the last, as a whole model; return when they were best."""
    path, best = out.file(checkpoints.BEST), {}
    if path.is_file():
        best = checkpoints.best_facts(path)
        log(f"keeping the weights of step {best['step']}, dev hit@1 {best['hit@1']:.3f}")
    if checkpoints.is_spread(embedder.module) or embedder.config.dtype == "nf4":
        # The main process puts the trained weights into a whole model of its own, which also is the
        # one that 4-bit weights were made of.
        if not best:
            path = out.file(LAST)
            checkpoints.save_trainable(embedder.module, path)
        embedder = _fresh(embedder, tune) if is_main() else embedder
    if is_main():
        if path.is_file():
            checkpoints.load_trainable(embedder.module, path)
        embedder.module.eval()
        with files.atomic_folder(out.file(MODEL)) as temporary:
            embedder.save(temporary)
    wait()
    return best


def _fresh(embedder: Trainable, tune: LoraSection) -> Trainable:
    load_whole_models()
    config = embedder.config
    if config.dtype == "nf4":
        config = config.model_copy(update={"dtype": "bfloat16"})
    whole = embedder.load(config, "cpu", embedder.prompt, check=False)
    train_parts(whole.backbone, tune)
    return whole


def load_whole_models() -> None:
    """Make transformers load models whole again: under ZeRO-3 it spreads whatever it loads."""
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()
