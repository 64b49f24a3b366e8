"""The optimisation in a training recipe, under transformers' own names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from unime.core.config import Section
from unime.core.processes import launched_deepspeed, ranks

if TYPE_CHECKING:
    from transformers import TrainingArguments


PER_DEVICE = "per_device_train_batch_size"
DEFAULT_BATCH = 64
"""Rows per process."""


class TrainingSection(Section):
    """Fields of `transformers.TrainingArguments`, with its meanings.

    The batch may be given as `per_device_train_batch_size`: rows per process. What is kept, and
    compared when a run is resumed, is the global batch, because it decides the result; so a run
    begun on two processes can be resumed on one.
    """

    global_batch_size: int = Field(gt=1)
    """Rows that the loss sees together, of all processes; overrules rows per process."""
    max_steps: int = Field(default=-1, ge=-1)
    num_train_epochs: float | None = Field(default=None, gt=0)
    """Instead of max_steps: how often every task's rows are gone through."""
    learning_rate: float = Field(default=1e-4, gt=0)
    lr_scheduler_type: str = "linear"
    warmup_steps: float = Field(default=0, ge=0)
    """Below 1: a share of all steps."""
    weight_decay: float = Field(default=0.0, ge=0)
    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    adam_beta2: float = Field(default=0.999, ge=0, lt=1)
    optim: str = "adamw_torch_fused"
    max_grad_norm: float = Field(default=1.0, ge=0)
    gradient_accumulation_steps: int = Field(default=1, gt=0)
    """Sums the gradients of several batches; does not make the contrast wider."""
    gradient_checkpointing: bool = False
    bf16: bool = False
    seed: int = Field(default=42, ge=0, lt=2**32)
    logging_steps: int = Field(default=10, gt=0)
    eval_steps: int = Field(default=100, gt=0)
    save_steps: int = Field(default=100, gt=0)
    save_total_limit: int = Field(default=2, gt=0)
    dataloader_num_workers: int = Field(default=0, ge=0)
    """0 prepares the next batch in a thread, n in so many processes."""
    report_to: list[str] = Field(default_factory=list)

    @model_validator(mode="before")
    @classmethod
    def _resolve_batch(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not isinstance(values.get(PER_DEVICE, 0), int):
            return values
        own = {key: value for key, value in values.items() if key != PER_DEVICE}
        own.setdefault("global_batch_size", ranks().world * values.get(PER_DEVICE, DEFAULT_BATCH))
        return own

    @model_validator(mode="after")
    def _check_length(self) -> TrainingSection:
        if (self.max_steps > 0) == (self.num_train_epochs is not None):
            raise ValueError("give either max_steps or num_train_epochs")
        return self

    def steps(self, batches_an_epoch: int) -> int:
        """Return the number of optimizer steps."""
        if self.num_train_epochs is None:
            return self.max_steps
        batches = self.num_train_epochs * batches_an_epoch
        return max(1, round(batches / self.gradient_accumulation_steps))

    def batches(self, batches_an_epoch: int) -> int:
        """Return the number of batches that are trained on."""
        return self.steps(batches_an_epoch) * self.gradient_accumulation_steps

    def arguments(self, folder: Path, steps: int, *, evaluates: bool) -> TrainingArguments:
        """Return transformers' arguments; checkpoints go into `folder`."""
        import sys

        import torch
        from transformers import TrainingArguments

        values: dict[str, Any] = self.model_dump(
            exclude={
                "global_batch_size",
                "max_steps",
                "num_train_epochs",
                "save_total_limit",
                "gradient_checkpointing",
            }
        )
        # For Trainer's own messages: the batch is shared out by cost, not by rows.
        values[PER_DEVICE] = max(1, self.global_batch_size // ranks().world)
        if ranks().world > 1 and not torch.cuda.is_available():
            values["ddp_backend"] = "gloo"
        return TrainingArguments(
            output_dir=str(folder),
            max_steps=steps,
            eval_strategy="steps" if evaluates else "no",
            metric_for_best_model="hit@1" if evaluates else None,
            greater_is_better=True if evaluates else None,
            # With DeepSpeed accelerate asks for the device itself; it knows no CPUs there.
            use_cpu=not torch.cuda.is_available() and not launched_deepspeed(),
            disable_tqdm=not sys.stderr.isatty(),
            # Batches are addressed by number, so nothing has to be skipped after a restart.
            ignore_data_skip=True,
            remove_unused_columns=False,
            logging_nan_inf_filter=False,
            # Old checkpoints are removed here, after a new one is complete; see checkpoints.py.
            save_total_limit=None,
            **values,
        )
