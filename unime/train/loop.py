"""The training loop: transformers' Trainer (its loop, schedules and trackers) around the cached step."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PrinterCallback, Trainer, TrainingArguments, set_seed

from unime.core import files
from unime.core.console import log
from unime.core.errors import DataError, ModelError, Terminated
from unime.core.processes import gather, is_main, main_decides, ranks, wait
from unime.core.provenance import Output
from unime.losses import ContrastBatch, LossFunction
from unime.models import self_check
from unime.models.adapters import LoraSection, tower_is_frozen, train_parts
from unime.models.embedder import Embedder
from unime.models.modes import evaluating, persistent_buffers, refuse_batch_statistics, train_mode
from unime.models.rerank_model import RerankModel
from unime.train import checkpoints, telemetry
from unime.train.backends import ChunkRunner, runner_of
from unime.train.batch import Batch
from unime.train.dev_set import DevEvaluation
from unime.train.loader import BatchSource, choose_budget, make_loader
from unime.train.settings import TrainingSection
from unime.train.step import StepResult, cached_step

SAMPLER_STATE = "batches.json"
MOST_IDLE = 50
"""Batches at the start of a training that may give a loss of exactly 0 before it is stopped."""
BAD_BATCH = "bad_batch.json"
"""Which rows gave no number, when training stops for it."""


def train(
    *,
    model: Embedder | RerankModel,
    tune: LoraSection,
    training: TrainingSection,
    source: BatchSource,
    loss: LossFunction,
    dev: DevEvaluation | None,
    out: Output,
) -> dict[str, Any]:
    """Train to the end, resuming where a killed run stopped, and write `<output>/model`.

    Args:
        model: not adapted yet; holds the trained weights afterwards.
        tune: what is trained.
        training: the optimisation.
        source: batch number -> batch.
        loss: record -> total and parts.
        dev: decides which weights are kept; None keeps the last.
        out: the stage's output.

    Returns:
        Facts for the manifest.

    Raises:
        Terminated: after SIGTERM, for which a checkpoint is kept.
    """
    out.note(processes=ranks().world)
    set_seed(training.seed)
    train_parts(model.backbone, tune)
    refuse_batch_statistics(model.backbone)
    if training.gradient_checkpointing:
        _recompute_layers(model.backbone)
    steps = training.steps(source.batches.epoch_length)
    trainer = CachedTrainer(
        model=model,
        source=source,
        loss=loss,
        arguments=training.arguments(
            out.file(checkpoints.CHECKPOINTS), steps, evaluates=dev is not None
        ),
        dev=dev,
        out=out,
        training=training,
    )
    checkpoint = trainer.find_checkpoint()
    trainer.train(resume_from_checkpoint=checkpoint)
    if trainer.stopped_early:
        raise Terminated
    best = checkpoints.save_trained(model, tune, out)
    return {"steps": steps, "best": best, "preprocessing": model.preprocessing}


class CachedTrainer(Trainer):
    """Trains a model on whole global batches.

    Args:
        model: its module is trained, as far as its parameters require gradients.
        source: batch number -> batch; the state of its sampler goes into checkpoints.
        loss: record -> total and parts.
        arguments: transformers' arguments, `output_dir` being the checkpoints' folder.
        dev: returns metrics with "hit@1", or None.
        out: the stage's output; the log and the best weights go there.
        training: how many checkpoints stay, and whether layers are computed again.
    """

    def __init__(
        self,
        *,
        model: Embedder | RerankModel,
        source: BatchSource,
        loss: LossFunction,
        arguments: TrainingArguments,
        dev: DevEvaluation | None,
        out: Output,
        training: TrainingSection,
    ) -> None:
        self._trained, self._source, self._loss = model, source, loss
        self._dev, self._out, self._keep = dev, out, training.save_total_limit
        self._start = 0
        self._idle: int | None = 0
        self._runner: ChunkRunner | None = None
        self._telemetry = telemetry.Telemetry()
        # Made here: later the loader's thread uses the tokenizer, whose settings a call may change.
        self._unchecked = (
            None if self_check.has_own_weights(model.module) else model.check_features()
        )
        self._preemption = telemetry.Preemption()
        self._recomputes = training.gradient_checkpointing
        # Trainer wants a dev set where it is to evaluate, but `evaluate` below has its own.
        stand_in: Any = ["dev"] if dev is not None else None
        super().__init__(
            model.network,
            arguments,
            eval_dataset=stand_in,
            callbacks=[telemetry.Reporter(out.file(telemetry.LOG)), self._preemption],
        )
        self.remove_callback(PrinterCallback)

    def find_checkpoint(self) -> str | None:
        """Return the newest intact checkpoint; cut the log back to it, batches go on from there."""
        folder = Path(str(self.args.output_dir))
        checkpoint = main_decides(checkpoints.latest(folder) if is_main() else None)
        if checkpoint is not None:
            state = files.read_json(checkpoint / SAMPLER_STATE)
            self._start = self._source.batches.load_state_dict(state)
            log(f"resuming from {checkpoint}")
        if is_main():
            telemetry.cut_logs(self._out, self._start // self.args.gradient_accumulation_steps)
            if checkpoint is not None:
                telemetry.check_log(self._out, checkpoint)
        return None if checkpoint is None else str(checkpoint)

    @property
    def stopped_early(self) -> bool:
        """Whether SIGTERM ended training before its last step."""
        return self._preemption.happened and self.state.global_step < self.args.max_steps

    def get_train_dataloader(self) -> Any:
        """Return the loader; nothing splits its batches: the source makes this process's chunks."""
        total = self.args.max_steps * self.args.gradient_accumulation_steps
        return make_loader(self._source, self._start, total, self.args.dataloader_num_workers)

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        """Accumulate the gradient of one global batch and return its loss."""
        batch: Batch = inputs["batch"]
        self._telemetry.begin(batch)
        buffers: dict[str, Tensor] = {}
        if self._runner is None:
            self._runner = self._prepare_runner(model)
            buffers = {name: b.clone() for name, b in persistent_buffers(model).items()}
            if self._source.budget.now().chunk == "auto":
                choose_budget(self._source, self._runner)
                batch = self._source[batch.number]
        accumulated = self.current_gradient_accumulation_steps
        while True:
            try:
                # Checked inside: DeepSpeed takes the optimizer's step when this context ends.
                with self._runner.step(self.accelerator.sync_gradients, accumulated):
                    result = cached_step(batch, self._runner, self._loss)
                    self._check_loss(batch, result)
                break
            except torch.OutOfMemoryError as error:
                # Outside of this block nothing of the failed step is alive any more.
                reason = str(error)
            batch = self._smaller(model, batch, reason)
        if buffers:
            _check_unchanged(buffers, persistent_buffers(model))
        self._batch = batch
        self._report(batch, result)
        return result.combined.total / accumulated

    def _prepare_runner(self, model: nn.Module) -> ChunkRunner:
        """Return what takes chunks through the model as accelerate prepared it, itself made ready."""
        trained = self._trained
        runner = runner_of(model, trained.vision, self.args.device)
        # Checkpointing recomputes layers and keeps no keys and values that could be shared. Sharded
        # weights are gathered at every call of a layer: all processes must make the same calls,
        # whatever prefix their chunks have.
        trained.network.shares_prefix = not (self._recomputes or runner.shards_weights)
        # Nor may one of them skip the tower that the others gather.
        if runner.shards_weights or not tower_is_frozen(trained.backbone):
            trained.vision.budget = 0
        self._check_sight(model, runner)
        train_mode(model, recomputes=self._recomputes)
        return runner

    def _check_sight(self, model: nn.Module, runner: ChunkRunner) -> None:
        """Run the self-check on sharded weights, with all processes.

        Raises:
            ModelError: when the model does not see pictures or does not read texts, on any of them.
        """
        if self._unchecked is None:
            return
        features = {key: value.to(self.args.device) for key, value in self._unchecked.items()}
        with evaluating(model), torch.no_grad():
            outputs = runner.forward(features)["sentence_embedding"]
        autocast = {"bf16": torch.bfloat16, "fp16": torch.float16}
        dtype = autocast.get(str(self.accelerator.mixed_precision)) or self._trained.backbone.dtype
        found = next(filter(None, gather(self_check.blindness(outputs, dtype))), None)
        self_check.refuse(found, self._trained.config.id)

    def _smaller(self, model: nn.Module, batch: Batch, reason: str) -> Batch:
        """Halve the budget and return the same batch in smaller chunks.

        Raises:
            ModelError: when that cannot help, or not from here.
        """
        budget = self._source.budget
        if ranks().world > 1 or self.args.gradient_accumulation_steps > 1 or budget.now().items < 2:
            raise ModelError(
                f"a chunk of {budget.now()} does not fit in memory ({reason}); halve "
                "budget.tokens and budget.pixels in the recipe (the result stays the same), or set "
                "training.gradient_checkpointing; several processes and accumulated batches cannot "
                "repeat a step"
            )
        model.zero_grad()
        budget.halve()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        log(f"out of memory: the step is repeated in chunks of {budget.now()}")
        return self._source[batch.number]

    def _check_loss(self, batch: Batch, result: StepResult) -> None:
        """Stop where the loss is no number, or no batch so far had anything to learn from.

        Raises:
            ModelError: in the first case.
            DataError: in the second, after some batches or at the end.
        """
        loss = result.combined.total.item()
        self._check_finite(batch, "loss", loss)
        # A resumed training has learned before.
        if self._idle is None or self._start or loss != 0.0:
            self._idle = None
            return
        self._idle += 1
        total = self.args.max_steps * self.args.gradient_accumulation_steps
        if self._idle >= min(MOST_IDLE, total):
            raise DataError(
                f"the loss was exactly 0 in all of the first {self._idle} batches: no query had a "
                "negative that the losses left it; look at their options (threshold, hardest, "
                "in_batch), at the rows' negatives and at the batch size"
            )

    def _check_finite(self, batch: Batch, what: str, value: float) -> None:
        if math.isfinite(value):
            return
        step = self.state.global_step + 1
        if is_main():
            files.write_json(
                self._out.file(BAD_BATCH), {"step": step, what: str(value), "batch": batch.name}
            )
        raise ModelError(
            f"the {what} is {value} at step {step}; its rows are in {self._out.file(BAD_BATCH)}; "
            "lower learning_rate, or look at these rows"
        )

    def _report(self, batch: Batch, result: StepResult) -> None:
        """Add the batch's figures to the next line of the log; details of the line's last batch alone."""
        every = max(1, int(self.args.logging_steps))
        is_logged = (self.state.global_step + 1) % every == 0
        if is_logged and isinstance(result.record, ContrastBatch):
            self._telemetry.add(
                telemetry.describe_contrast(result.record, result.embeddings, batch.images)
            )
        self._telemetry.add(result.combined.parts)
        self._telemetry.end()

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        norm = super()._clip_grad_norm(model)
        if norm is not None:
            self._check_finite(self._batch, "gradient norm", float(norm))
        return norm

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the figures of the batches since the last log; trackers are given them too."""
        if "loss" in logs:
            logs |= self._telemetry.read()
        super().log(logs, start_time)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Measure the dev set; keep the weights if they are the best so far."""
        assert self._dev is not None, "evaluation without dev rows"
        hits = self._dev.hits(self._trained)
        metrics = {f"eval_{name}": value for name, value in hits.items()}
        best = self.state.best_metric
        if best is None or metrics["eval_hit@1"] > best:
            checkpoints.save_trainable(
                self._trained.module,
                self._out.file(checkpoints.BEST),
                {"step": str(self.state.global_step), "hit@1": repr(metrics["eval_hit@1"])},
            )
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        number = self.state.global_step * self.args.gradient_accumulation_steps
        wait()
        if is_main():
            files.write_json(folder / SAMPLER_STATE, self._source.batches.state_dict(number))
            telemetry.note_log(self._out, folder)
            checkpoints.commit(folder)
            checkpoints.rotate(folder.parent, self._keep)
            self._out.save_progress()
        wait()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write only what is trained: the rest is the model the recipe names."""
        folder = Path(str(output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        checkpoints.save_trainable(self._trained.module, folder / checkpoints.WEIGHTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        path = Path(resume_from_checkpoint) / checkpoints.WEIGHTS
        checkpoints.load_trainable(self._trained.module, path)


def _check_unchanged(before: dict[str, Tensor], now: dict[str, Tensor]) -> None:
    """Hold the buffers of the first step against those after it: only parameters are trained.

    Raises:
        ModelError: when one was written to.
    """
    changed = [name for name, buffer in before.items() if not torch.equal(buffer, now[name])]
    if changed:
        raise ModelError(
            f"a training step has changed the buffer {changed[0]} and {len(changed) - 1} others; only "
            "parameters are trained and kept in checkpoints, and a chunk goes through the model twice; "
            "leave the part it belongs to out of tune.parts"
        )


def _recompute_layers(backbone: Any) -> None:
    """Compute every layer again in the backward pass, instead of keeping its activations."""
    # transformers before 5.23 knows the old name alone.
    enable = getattr(backbone, "activation_checkpointing_enable", None)
    # Reentrant checkpointing loses the gradient where inputs need none (frozen embeddings).
    (enable or backbone.gradient_checkpointing_enable)({"use_reentrant": False})
