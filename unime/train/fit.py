"""What both training stages do once they have a source of batches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from unime import files
from unime.console import log
from unime.losses import LossFunction
from unime.models import LoraSection
from unime.models.adapters import train_parts
from unime.provenance import Output
from unime.train import checkpoints
from unime.train.loader import Source
from unime.train.sampler import TaskBatches
from unime.train.settings import TrainingSection
from unime.train.trainable import Trainable

MODEL = "model"
CHECKPOINTS = "checkpoints"


def train_once(out: Output, train: Callable[[], dict[str, Any]]) -> None:
    """Run a stage's training unless a killed run has finished it, then clean up.

    Args:
        out: gets the facts.
        train: writes `<output>/model` and returns the facts of the manifest.
    """
    out.facts(**keep(out.file("facts.json"), train))
    if out.file(CHECKPOINTS).exists():
        files.remove_folder(out.file(CHECKPOINTS))
    out.file(checkpoints.BEST).unlink(missing_ok=True)


def keep(path: Path, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Compute a value, or read it where a killed run has left it."""
    if not path.exists():
        files.write_json(path, compute())
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

    set_seed(training.seed)
    train_parts(embedder.backbone, tune)
    steps = training.steps(batches.epoch_length)
    trainer = CachedTrainer(
        embedder=embedder,
        source=source,
        batches=batches,
        loss=loss,
        arguments=training.arguments(out.file(CHECKPOINTS), steps, evaluates=evaluate is not None),
        out=out,
        evaluate=evaluate,
        keep=training.save_total_limit,
    )
    trainer.run()
    best = checkpoints.load_best(embedder.module, out.file(checkpoints.BEST))
    if best:
        log(f"keeping the weights of step {best['step']}, dev hit@1 {best['hit@1']:.3f}")
    embedder.module.eval()
    with files.atomic_folder(out.file(MODEL)) as temporary:
        embedder.save(temporary)
    return {"steps": steps, "best": best, "preprocessing": embedder.preprocessing}
