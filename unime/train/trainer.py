"""transformers' Trainer around the cached step: its loop, schedules and trackers, our batches."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PrinterCallback, Trainer, TrainingArguments

from unime.core import files
from unime.core.console import log
from unime.core.errors import DamagedError, DataError, ModelError, RecipeError
from unime.core.hashes import content_hash
from unime.core.processes import gather, is_main, main_decides, ranks, wait
from unime.core.provenance import Output
from unime.losses import Combined, ContrastBatch, LossFunction
from unime.models import self_check
from unime.models.adapters import tower_is_frozen
from unime.models.modes import evaluating, persistent_buffers, train_mode
from unime.train import checkpoints
from unime.train.backends import Backend, backend_of
from unime.train.batch import Prepared
from unime.train.loader import Source, make_loader
from unime.train.probe import choose_budget
from unime.train.reporter import SPEED, Preemption, Reporter, cut_log
from unime.train.sampler import TaskBatches
from unime.train.settings import TrainingSection
from unime.train.step import Chunk, cached_step
from unime.train.telemetry import Telemetry, describe_contrast
from unime.train.trainable import Trainable

LOG = "train.jsonl"
SAMPLER_STATE = "batches.json"
LOG_STATE = "log.json"
"""In a checkpoint: the hash of the log, whose lines a resumed run keeps."""
MOST_IDLE = 50
"""Batches at the start of a training that may give a loss of exactly 0 before it is stopped."""
BAD_BATCH = "bad_batch.json"
"""Which rows gave no number, when training stops for it."""


class CachedTrainer(Trainer):
    """Trains an embedder on whole global batches.

    Args:
        embedder: its module is trained, as far as its parameters require gradients.
        source: batch number -> prepared batch.
        batches: the sequence the source follows; its state goes into checkpoints.
        loss: record -> total and parts.
        arguments: transformers' arguments, `output_dir` being the checkpoints' folder.
        out: the stage's output; the log and the best weights go there.
        evaluate: returns metrics with "hit@1", or None without dev rows.
        training: how many checkpoints stay, and whether layers are computed again.
    """

    def __init__(
        self,
        *,
        embedder: Trainable,
        source: Source,
        batches: TaskBatches,
        loss: LossFunction,
        arguments: TrainingArguments,
        out: Output,
        evaluate: Callable[[], dict[str, float]] | None,
        training: TrainingSection,
    ) -> None:
        self._embedder, self._source, self._batches, self._loss = embedder, source, batches, loss
        self._out, self._dev, self._keep = out, evaluate, training.save_total_limit
        self._start = 0
        self._idle: int | None = 0
        self._backend: Backend | None = None
        self._telemetry = Telemetry()
        # Trainer wants a dev set where it is to evaluate, but `evaluate` below has its own.
        dev: Any = ["dev"] if evaluate is not None else None
        # Made here: later the loader's thread uses the tokenizer, whose settings a call may change.
        self._unchecked = (
            None if self_check.has_own_weights(embedder.module) else embedder.check_features()
        )
        self._preemption = Preemption()
        self._recomputes = training.gradient_checkpointing
        if self._recomputes:
            _recompute_layers(embedder.backbone)
        super().__init__(
            embedder.network,
            arguments,
            eval_dataset=dev,
            callbacks=[Reporter(out.file(LOG)), self._preemption],
        )
        self.remove_callback(PrinterCallback)

    def run(self) -> bool:
        """Train, from the newest intact checkpoint if there is one.

        Returns:
            Whether training came to its end; not so after SIGTERM, for which a checkpoint is kept.
        """
        folder = Path(str(self.args.output_dir))
        checkpoint = main_decides(checkpoints.latest(folder) if is_main() else None)
        if checkpoint is not None:
            self._start = self._batches.load_state_dict(files.read_json(checkpoint / SAMPLER_STATE))
            log(f"resuming from {checkpoint}")
        if is_main():
            for name in (LOG, SPEED):
                cut_log(self._out.file(name), self._start // self.args.gradient_accumulation_steps)
            if checkpoint is not None:
                self._check_log(checkpoint)
        self.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        return not self._preemption.happened or self.state.global_step >= self.args.max_steps

    def _check_log(self, checkpoint: Path) -> None:
        """Check that the log up to the checkpoint is as it was when that was written."""
        path, noted = self._out.file(LOG), checkpoint / LOG_STATE
        found = content_hash(path, fresh=True) if path.is_file() else None
        if noted.is_file() and files.read_json(noted)["log"] != found:
            raise DamagedError(
                f"{path} was changed since {checkpoint.name} was written; put it back, or begin anew "
                "with --restart"
            )

    def get_train_dataloader(self) -> Any:
        """Return the loader; nothing splits its batches, of which the source makes this share."""
        total = self.args.max_steps * self.args.gradient_accumulation_steps
        return make_loader(self._source, self._start, total, self.args.dataloader_num_workers)

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        """Accumulate the gradient of one global batch and return its loss."""
        batch: Prepared = inputs["batch"]
        self._telemetry.begin(batch)
        buffers: dict[str, Tensor] = {}
        if self._backend is None:
            self._backend = self._make_backend(model)
            self._check_sight(model, self._backend)
            train_mode(model, recomputes=self._recomputes)
            buffers = {name: b.clone() for name, b in persistent_buffers(model).items()}
            if self._source.budget.now().chunk == "auto":
                choose_budget(self._source, lambda chunk: self._try(model, chunk))
                batch = self._source[batch.number]
        while True:
            try:
                combined = self._take_step(self._backend, batch)
                break
            except torch.OutOfMemoryError as error:
                # Outside of this block nothing of the failed step is alive any more.
                reason = str(error)
            batch = self._smaller(model, batch, reason)
        if buffers:
            _check_unchanged(buffers, persistent_buffers(model))
        self._telemetry.add(combined.parts)
        self._telemetry.end()
        return combined.total / self.current_gradient_accumulation_steps

    def _try(self, model: nn.Module, chunk: Chunk) -> None:
        """Take a chunk forward and backward as a step would."""
        assert self._backend is not None
        if self._backend.shards_weights:
            raise RecipeError(
                "budget.chunk: auto cannot be tried when weights are spread over the processes "
                "(one that runs out of memory would leave the others waiting); give numbers"
            )
        features = {key: value.to(self.args.device) for key, value in chunk.features.items()}
        self._backend.forward(features)["sentence_embedding"].sum().backward()
        model.zero_grad()

    def _take_step(self, backend: Backend, batch: Prepared) -> Combined:
        vision, self._batch = self._embedder.vision, batch
        device, share = self.args.device, self.current_gradient_accumulation_steps

        def forward(chunk: Chunk) -> Tensor:
            vision.announce(id(chunk))
            # A fresh dict, because sentence-transformers writes into the one it gets.
            features = {key: value.to(device) for key, value in chunk.features.items()}
            return backend.forward(features)["sentence_embedding"]

        with backend.step(self.accelerator.sync_gradients), vision.reuse():
            return cached_step(
                batch.chunks,
                batch.kept,
                forward,
                lambda embeddings: self._measured_loss(batch, embeddings),
                batch.gather,
                lambda surrogate, is_last: backend.backward(surrogate / share, is_last),
            )

    def _smaller(self, model: nn.Module, batch: Prepared, reason: str) -> Prepared:
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

    def _measured_loss(self, batch: Prepared, embeddings: Tensor) -> Combined:
        """Return the loss; stop where it is no number; now and then look closer at the batch."""
        record = batch.indices.record(embeddings)
        combined = self._loss(record)
        self._check_finite(batch, "loss", combined.total.item())
        self._check_taught(combined.total.item())
        if self._looks_closer() and isinstance(record, ContrastBatch):
            self._telemetry.add(describe_contrast(record, embeddings, batch.pictures))
        return combined

    def _check_taught(self, loss: float) -> None:
        """Stop when no batch so far had anything to learn from, after some or at the end.

        Raises:
            DataError: then.
        """
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

    def _looks_closer(self) -> bool:
        every = max(1, int(self.args.logging_steps))
        return (self.state.global_step + 1) % every == 0

    def _check_finite(self, batch: Prepared, what: str, value: float) -> None:
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

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        norm = super()._clip_grad_norm(model)
        if norm is not None:
            self._check_finite(self._batch, "gradient norm", float(norm))
        return norm

    def _make_backend(self, model: nn.Module) -> Backend:
        backend = backend_of(model)
        # Checkpointing recomputes layers and keeps no keys and values that could be shared. Spread
        # weights are gathered at every call of a layer: all processes must make the same calls,
        # whatever prefix their chunks have.
        shares = not (self._recomputes or backend.shards_weights)
        self._embedder.network.shares_prefix = shares
        # Nor may one of them skip the tower that the others gather.
        if backend.shards_weights or not tower_is_frozen(self._embedder.backbone):
            self._embedder.vision.budget = 0
        return backend

    def _check_sight(self, model: nn.Module, backend: Backend) -> None:
        """Run the self-check on shared weights, with all processes.

        Raises:
            ModelError: when the model does not see pictures or does not read texts, on any of them.
        """
        if self._unchecked is None:
            return
        features = {key: value.to(self.args.device) for key, value in self._unchecked.items()}
        with evaluating(model), torch.no_grad():
            outputs = backend.forward(features)["sentence_embedding"]
        autocast = {"bf16": torch.bfloat16, "fp16": torch.float16}
        dtype = autocast.get(str(self.accelerator.mixed_precision)) or self._embedder.backbone.dtype
        found = next(filter(None, gather(self_check.blindness(outputs, dtype))), None)
        self_check.refuse(found, self._embedder.config.id)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add what the batches since the last log have told."""
        if "loss" in logs:
            logs |= self._telemetry.read()
        super().log(logs, start_time)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Measure the dev set; keep the weights if they are the best so far."""
        assert self._dev is not None, "evaluation without dev rows"
        metrics = {f"eval_{name}": value for name, value in self._dev().items()}
        best = self.state.best_metric
        if best is None or metrics["eval_hit@1"] > best:
            checkpoints.save_trainable(
                self._embedder.module,
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
            files.write_json(folder / SAMPLER_STATE, self._batches.state_dict(number))
            if self._out.file(LOG).is_file():
                log_state = {"log": content_hash(self._out.file(LOG), fresh=True)}
                files.write_json(folder / LOG_STATE, log_state)
            checkpoints.commit(folder)
            checkpoints.rotate(folder.parent, self._keep)
            self._out.save_progress()
        wait()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write only what is trained: the rest is the model the recipe names."""
        folder = Path(str(output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        checkpoints.save_trainable(self._embedder.module, folder / checkpoints.WEIGHTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        path = Path(resume_from_checkpoint) / checkpoints.WEIGHTS
        checkpoints.load_trainable(self._embedder.module, path)


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
