"""What a training run reports: figures of its batches, the log file, and when it stops early."""

from __future__ import annotations

import json
import math
import signal
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import TrainerCallback

from unime.core import files
from unime.core.console import SECONDS_BETWEEN_LINES, log
from unime.core.errors import DamagedError
from unime.core.hashes import content_hash
from unime.core.processes import any_process, is_main
from unime.core.provenance import Output, peak_gb
from unime.losses import ContrastBatch
from unime.train.batch import Batch

LOG = "train.jsonl"
SPEED = "speed.jsonl"
LOG_STATE = "log.json"
"""In a checkpoint: the hash of the log, whose lines a resumed run keeps."""

RANKS = (1, 2, 5, 10, 100)
"""Upper ends of the positive-rank histogram's bins."""
MEASURED = ("items_per_second", "tokens_per_second", "data_wait", "peak_memory_gb")
"""Values that differ from run to run."""
SHARPNESS = 20.0
"""Inverse temperature at which negatives are counted by their weight."""
MOST = 1024
"""Embeddings that uniformity is computed on, because it takes all pairs."""


class Telemetry:
    """Collects values between two logs and gives their means, rates and maxima."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = defaultdict(list)
        self._totals: dict[str, float] = defaultdict(float)
        self._since = self._idle_since = time.perf_counter()

    def begin(self, batch: Batch) -> None:
        """A batch has arrived; the time since the last one ended was spent waiting for it."""
        self._totals["wait"] += time.perf_counter() - self._idle_since
        padded = real = 0
        for chunk in batch.chunks:
            mask = chunk.features.get("attention_mask")
            if mask is not None and len(chunk.places):
                padded, real = padded + mask.numel(), real + int(mask.sum())
        self._totals["tokens"] += real
        self._totals["padded"] += padded
        self._totals["items"] += sum(len(places) for places in batch.gather.places)
        self.add(batch.counts)

    def end(self) -> None:
        """The batch is done with."""
        self._idle_since = time.perf_counter()

    def add(self, values: Mapping[str, float | int | Tensor]) -> None:
        """Add values whose means are logged."""
        for name, value in values.items():
            self._values[name].append(float(value))

    def read(self) -> dict[str, float]:
        """Return everything since the last call; tokens and padding are this process's."""
        now = time.perf_counter()
        seconds, totals = now - self._since, self._totals
        logs = {name: sum(values) / len(values) for name, values in self._values.items()}
        logs["items_per_second"] = totals["items"] / seconds
        logs["tokens_per_second"] = totals["tokens"] / seconds
        logs["padding"] = 1 - totals["tokens"] / totals["padded"] if totals["padded"] else 0.0
        logs["data_wait"] = totals["wait"] / seconds
        logs["peak_memory_gb"] = peak_memory()
        self._values.clear()
        self._totals.clear()
        self._since = now
        return logs


@torch.no_grad()
def describe_contrast(
    batch: ContrastBatch,
    embeddings: Float[Tensor, "inputs dim"],
    images: Bool[Tensor, " inputs"],
) -> dict[str, float]:
    """Return how well a batch is discriminated, and how its embeddings are distributed; without gradient.

    * `rank<=k`: share of queries whose positive is among the k most similar allowed candidates;
    * `effective_negatives`: exp of the entropy of a query's weights on its negatives;
    * `alignment`, `uniformity`: Wang and Isola 2020 (arXiv 2005.10242), with t = 2;
    * `modality_gap`: distance between the means of images and of plain texts
      (Liang et al. 2022, arXiv 2203.02053).

    Args:
        batch: the loss's record.
        embeddings: all distinct ones.
        images: which of them are of inputs with an image.
    """
    similarity = batch.query @ batch.candidates.T
    own = similarity.gather(1, batch.positive[:, None])
    rank = 1 + (batch.allowed & (similarity >= own)).sum(dim=1)
    logits = (SHARPNESS * similarity).masked_fill(~batch.allowed, -torch.inf)
    some = batch.allowed.any(dim=1)
    weights = torch.softmax(logits[some], dim=1)
    entropy = -(weights * weights.clamp_min(1e-30).log()).sum(dim=1)
    values = {f"rank<={k}": (rank <= k).double().mean() for k in RANKS}
    values["effective_negatives"] = entropy.exp().sum() / len(batch.query)
    values["alignment"] = (batch.query - batch.candidates[batch.positive]).square().sum(1).mean()
    sample = embeddings[torch.linspace(0, len(embeddings) - 1, min(MOST, len(embeddings))).long()]
    if len(sample) > 1:
        values["uniformity"] = torch.pdist(sample.float()).square().mul(-2).exp().mean().log()
    images = images.to(embeddings.device)
    if images.any() and not images.all():
        gap = embeddings[images].mean(0) - embeddings[~images].mean(0)
        values["modality_gap"] = gap.norm()
    return {name: float(value) for name, value in values.items() if math.isfinite(value)}


def peak_memory() -> float:
    """Return the peak in GB: of the GPU since the start, or of the process without one."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    return peak_gb()


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
        """Evaluate and log at the end too; report where training is."""
        # A line's means begin at the line before: with one at every checkpoint, a resumed run's log is
        # that of a run which was never stopped.
        control.should_log |= control.should_save
        if state.global_step >= state.max_steps:
            control.should_log = True
            control.should_evaluate = args.eval_strategy != "no"
        now = time.monotonic()
        if is_main() and args.disable_tqdm and now - self._last >= SECONDS_BETWEEN_LINES:
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
        if "train_runtime" in values or not is_main():
            return
        if "loss" in values:
            # What depends on the machine has a file of its own: equal runs have equal logs.
            speed = {name: values.pop(name) for name in MEASURED if name in values}
            _append(self._path.with_name(SPEED), state.global_step, speed)
        _append(self._path, state.global_step, values)

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Any = None, **_: Any
    ) -> None:
        """Report the mean hit@1."""
        log(f"step {state.global_step}/{state.max_steps}: dev hit@1 {metrics['eval_hit@1']:.3f}")


class Preemption(TrainerCallback):
    """On SIGTERM: finish the step, write a checkpoint, stop. All processes stop at one step."""

    def __init__(self) -> None:
        self.happened = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Handle SIGTERM from here on."""
        self._before = signal.signal(signal.SIGTERM, self._note)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop if any process was told to."""
        self.happened = any_process(self.happened)
        if self.happened:
            control.should_save = control.should_training_stop = True

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Give SIGTERM back to who handled it before."""
        signal.signal(signal.SIGTERM, self._before)

    def _note(self, number: int, frame: Any) -> None:
        self.happened = True


def _append(path: Path, step: int, values: dict[str, float]) -> None:
    files.append_lines(path, [json.dumps({"step": step, **values})])


def cut_logs(out: Output, step: int) -> None:
    """Drop what was logged after the checkpoint of a step: what followed is done again.

    Raises:
        DamagedError: when a line is none.
    """
    for path in (out.file(LOG), out.file(SPEED)):
        lines = files.read_lines(path)
        try:
            kept = [line for line in lines if json.loads(line)["step"] <= step]
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedError(
                f"{path} is damaged ({error}); put it back, or begin anew with --restart"
            ) from None
        if len(kept) != len(lines):
            files.write_text(path, "".join(f"{line}\n" for line in kept))


def note_log(out: Output, checkpoint: Path) -> None:
    """Keep in a checkpoint what the log was when it was written."""
    if out.file(LOG).is_file():
        log_state = {"log": content_hash(out.file(LOG), fresh=True)}
        files.write_json(checkpoint / LOG_STATE, log_state)


def check_log(out: Output, checkpoint: Path) -> None:
    """Check that the log up to a checkpoint is as it was when that was written.

    Raises:
        DamagedError: when it was changed since.
    """
    path, noted = out.file(LOG), checkpoint / LOG_STATE
    found = content_hash(path, fresh=True) if path.is_file() else None
    if noted.is_file() and files.read_json(noted)["log"] != found:
        raise DamagedError(
            f"{path} was changed since {checkpoint.name} was written; put it back, or begin anew "
            "with --restart"
        )
