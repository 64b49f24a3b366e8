"""What a training run says: a log file, lines on the terminal, and when it stops early."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from unime.core import files
from unime.core.console import SECONDS_BETWEEN_LINES, log
from unime.core.errors import DamagedError
from unime.core.processes import any_process, is_main
from unime.train.telemetry import MEASURED

SPEED = "speed.jsonl"


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
        """Say the mean hit@1."""
        log(f"step {state.global_step}/{state.max_steps}: dev hit@1 {metrics['eval_hit@1']:.3f}")


class Preemption(TrainerCallback):
    """On SIGTERM: finish the step, write a checkpoint, stop. All processes stop at one step."""

    def __init__(self) -> None:
        self.happened = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Listen."""
        self._before = signal.signal(signal.SIGTERM, self._note)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop if any process was told to."""
        self.happened = any_process(self.happened)
        if self.happened:
            control.should_save = control.should_training_stop = True

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Listen no more."""
        signal.signal(signal.SIGTERM, self._before)

    def _note(self, number: int, frame: Any) -> None:
        self.happened = True


def _append(path: Path, step: int, values: dict[str, float]) -> None:
    files.append_lines(path, [json.dumps({"step": step, **values})])


def cut_log(path: Path, step: int) -> None:
    """Drop what was logged after the checkpoint: those steps are done again."""
    lines = files.read_lines(path)
    try:
        kept = [line for line in lines if json.loads(line)["step"] <= step]
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedError(
            f"{path} is damaged ({error}); put it back, or begin anew with --restart"
        ) from None
    if len(kept) != len(lines):
        files.write_text(path, "".join(f"{line}\n" for line in kept))
