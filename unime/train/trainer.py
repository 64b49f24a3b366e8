"""transformers' Trainer around the cached step: its loop, schedules and trackers, our batches."""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from unime import files
from unime.console import SECONDS_BETWEEN_LINES, log
from unime.errors import ModelError
from unime.losses import LossFunction
from unime.models import Embedder
from unime.models.prefix import SharedPrefix
from unime.provenance import Output
from unime.train import checkpoints
from unime.train.batch import Prepared
from unime.train.loader import Source, make_loader
from unime.train.sampler import TaskBatches
from unime.train.step import cached_step
from unime.train.trainable import Trainable

LOG = "train.jsonl"
SAMPLER_STATE = "batches.json"


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
        keep: how many checkpoints stay.
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
        keep: int,
    ) -> None:
        self._embedder, self._source, self._batches, self._loss = embedder, source, batches, loss
        self._out, self._dev, self._keep = out, evaluate, keep
        self._start = 0
        self._sums: dict[str, list[float]] = defaultdict(list)
        # Trainer wants a dev set where it is to evaluate, but `evaluate` below has its own.
        dev: Any = ["dev"] if evaluate is not None else None
        # Checkpointing recomputes layers and keeps no keys and values that could be shared.
        plain = arguments.activation_checkpointing or not isinstance(embedder, Embedder)
        super().__init__(
            embedder.module if plain else SharedPrefix(embedder.module),
            arguments,
            eval_dataset=dev,
            callbacks=[Reporter(out.file(LOG))],
        )
        self.remove_callback(PrinterCallback)

    def run(self) -> None:
        """Train to the end, from the newest intact checkpoint if there is one."""
        checkpoint = checkpoints.latest(Path(str(self.args.output_dir)))
        if checkpoint is not None:
            self._start = self._batches.load_state_dict(files.read_json(checkpoint / SAMPLER_STATE))
            log(f"resuming from {checkpoint}")
        _cut_log(self._out.file(LOG), self._start // self.args.gradient_accumulation_steps)
        self.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))

    def get_train_dataloader(self) -> Any:
        """Return the loader of whole batches; not split among ranks, every rank sees them all."""
        total = self.args.max_steps * self.args.gradient_accumulation_steps
        return make_loader(self._source, self._start, total, self.args.dataloader_num_workers)

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        """Accumulate the gradient of one global batch and return its loss."""
        batch: Prepared = inputs["batch"]
        model.train()
        device, share = self.args.device, self.current_gradient_accumulation_steps

        def forward(features: dict[str, Tensor]) -> Tensor:
            # A fresh dict, because sentence-transformers writes into the one it gets.
            return model({key: value.to(device) for key, value in features.items()})[
                "sentence_embedding"
            ]

        combined = cached_step(
            batch.chunks,
            batch.kept,
            forward,
            lambda embeddings: self._loss(batch.indices.record(embeddings)),
            lambda surrogate: self.accelerator.backward(surrogate / share),
        )
        if not math.isfinite(combined.total.item()):
            raise ModelError(
                f"the loss is {combined.total.item()} at step {self.state.global_step + 1}, "
                f"{batch.name}; lower learning_rate, or look at these rows"
            )
        for name, value in [*combined.parts.items(), *batch.counts.items()]:
            self._sums[name].append(float(value))
        return combined.total / share

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the means of loss parts and batch counts since the last log."""
        if "loss" in logs:
            logs |= {name: sum(values) / len(values) for name, values in self._sums.items()}
            self._sums.clear()
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
        files.write_json(folder / SAMPLER_STATE, self._batches.state_dict(number))
        checkpoints.commit(folder)
        checkpoints.rotate(folder.parent, self._keep)
        self._out.save_progress()

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Write only what is trained: the rest is the model the recipe names."""
        folder = Path(str(output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        checkpoints.save_trainable(self._embedder.module, folder / checkpoints.WEIGHTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        path = Path(resume_from_checkpoint) / checkpoints.WEIGHTS
        checkpoints.load_trainable(self._embedder.module, path)


class Reporter(TrainerCallback):
    """Writes the log file, and a line every few seconds where there is no progress bar."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._began = self._last = time.monotonic()
        self._first_step = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the clock."""
        self._began = self._last = time.monotonic()
        self._first_step = state.global_step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Evaluate and log at the end too; say where training is."""
        if state.global_step >= state.max_steps:
            control.should_log = True
            control.should_evaluate = args.eval_strategy != "no"
        now = time.monotonic()
        if args.disable_tqdm and now - self._last >= SECONDS_BETWEEN_LINES:
            self._last = now
            rate = (state.global_step - self._first_step) / (now - self._began)
            left = (state.max_steps - state.global_step) / rate
            loss = next(
                (f", loss {x['loss']:.3f}" for x in reversed(state.log_history) if "loss" in x), ""
            )
            log(
                f"step {state.global_step}/{state.max_steps}{loss} "
                f"({rate:.2f}/s, {left:.0f} s left)"
            )

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Append one line."""
        # The epoch Trainer counts is the whole training, and restarts with a checkpoint.
        values = {k: round(float(v), 6) for k, v in (logs or {}).items() if k != "epoch"}
        if "train_runtime" in values:
            return
        files.append_lines(self._path, [json.dumps({"step": state.global_step, **values})])

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Any = None, **_: Any
    ) -> None:
        """Say the mean hit@1."""
        log(f"step {state.global_step}/{state.max_steps}: dev hit@1 {metrics['eval_hit@1']:.3f}")


def _cut_log(path: Path, step: int) -> None:
    """Drop what was logged after the checkpoint: those steps are done again."""
    lines = files.read_lines(path)
    kept = [line for line in lines if json.loads(line)["step"] <= step]
    if len(kept) != len(lines):
        files.write_text(path, "".join(f"{line}\n" for line in kept))
