"""Teach the student: the loop, its checkpoints, and the folder it leaves."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch.nn import functional
from transformers import Qwen3VLForConditionalGeneration

from unime import files
from unime.console import log
from unime.provenance import Output
from world.base import BaseRecipe
from world.base_batch import Encoder, MicroBatch
from world.base_evaluate import evaluate
from world.base_feed import batches
from world.base_model import answer_logits, build_model, share_words
from world.base_tokenizer import build_processor, train_tokenizer

MUON_PARTS = 2  # optimizers that share the matrices and step at the same time


def train(recipe: BaseRecipe, out: Output) -> None:
    """Train from the last checkpoint, or from the beginning, to the last step."""
    pool = ThreadPoolExecutor(recipe.threads, initializer=torch.set_num_threads, initargs=(1,))
    torch.set_num_threads(1)
    _keep_memory()
    tokenizer = _tokenizer(recipe, out.file("tokenizer.partial.json"))
    model = build_model(recipe.model, recipe.seed)
    share_words(model, tokenizer)
    state = _State(model, recipe)
    place = out.file("checkpoint.pt")
    if place.exists():
        state.load(place)
        log(f"base: resumed at step {state.step}")
    start, lessons = time.monotonic(), 0
    for micro_batches in batches(recipe, tokenizer, state.step):
        loss = _step(state, micro_batches, recipe, pool)
        lessons += recipe.batch_size
        if state.step % 20 == 0:
            rate = lessons / (time.monotonic() - start)
            length = [batch.tokens.shape[1] for batch in micro_batches]
            log(f"base: step {state.step}/{recipe.steps} loss {loss:.3f} {rate:.0f}/s {length}")
        if state.step % recipe.eval_steps == 0 and state.step < recipe.steps:
            _report(state, recipe, tokenizer, out, loss)
        if state.step % recipe.save_steps == 0:
            state.save(place)
            out.save_progress()
    state.save(place)
    figures = _report(state, recipe, tokenizer, out, loss=None)
    save_student(state.average, tokenizer, out.path)
    files.write_json(out.file("figures.json"), figures)
    out.facts(figures=figures, parameters=sum(p.numel() for p in model.parameters()))
    place.unlink()
    out.file("tokenizer.partial.json").unlink()


class _State:
    """All that a checkpoint holds: weights, their moving average, optimizers, step."""

    def __init__(self, model: Qwen3VLForConditionalGeneration, recipe: BaseRecipe) -> None:
        self.model = model.train()
        self.average = build_model(recipe.model, recipe.seed).eval()
        self.average.load_state_dict(model.state_dict())
        named = list(model.named_parameters())
        matrices = [p for name, p in named if _is_matrix(name, p)]
        others = [p for name, p in named if not _is_matrix(name, p)]
        self.optimizers: list[torch.optim.Optimizer] = [
            *(
                torch.optim.Muon(
                    matrices[part::MUON_PARTS],
                    lr=recipe.learning_rate,
                    weight_decay=recipe.weight_decay,
                    adjust_lr_fn="match_rms_adamw",
                )
                for part in range(MUON_PARTS)
            ),
            torch.optim.AdamW(others, lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.0),
        ]
        self.step = 0

    def save(self, place: Path) -> None:
        state = {
            "step": self.step,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        with files.atomic_path(place) as temporary:
            torch.save(state, temporary)

    def load(self, place: Path) -> None:
        state = torch.load(place, weights_only=True)
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        for optimizer, values in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(values)


def _is_matrix(name: str, parameter: torch.nn.Parameter) -> bool:
    """Muon is for hidden layers; embeddings look things up, they don't map."""
    return parameter.ndim == 2 and "embed" not in name


def _step(
    state: _State, micro_batches: list[MicroBatch], recipe: BaseRecipe, pool: ThreadPoolExecutor
) -> float:
    """Take one optimizer step; the loss is the weighted mean over the whole batch's answers.

    Each micro-batch runs on one thread: on a busy machine, threads that share every operation
    wait for each other all the time. Gradients are added in a fixed order.
    """
    total = sum(float(batch.weights.sum()) for batch in micro_batches)
    longest_first = reversed(micro_batches)
    parts = list(pool.map(lambda batch: _gradients(state.model, batch, total), longest_first))
    for parameter, *gradients in zip(
        state.model.parameters(), *(part[1] for part in parts), strict=True
    ):
        # Without any picture in the batch, the vision tower has no gradient.
        found = [gradient for gradient in gradients if gradient is not None]
        parameter.grad = torch.stack(found).sum(dim=0) if found else None
    torch.nn.utils.clip_grad_norm_(state.model.parameters(), 1.0)
    rate = recipe.learning_rate * learning_rate_factor(recipe, state.step)
    for optimizer in state.optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
    list(pool.map(lambda optimizer: optimizer.step(), state.optimizers))
    state.step += 1
    # Early weights are soon wrong: average over a tenth of the run at most.
    keep = min(recipe.ema_decay, 1 - 10 / (10 + state.step))
    with torch.no_grad():
        pairs = zip(state.average.parameters(), state.model.parameters(), strict=True)
        for average, current in pairs:
            average.lerp_(current, 1 - keep)
    return sum(part[0] for part in parts)


def _gradients(
    model: Qwen3VLForConditionalGeneration, batch: MicroBatch, total: float
) -> tuple[float, tuple[torch.Tensor | None, ...]]:
    """Return one micro-batch's share of the loss and of the gradient."""
    logits, targets = answer_logits(model, batch)
    weights = batch.weights[:, 1:]
    losses = functional.cross_entropy(logits, targets, reduction="none")
    loss = (losses * weights[weights > 0]).sum() / total
    return loss.item(), torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)


def learning_rate_factor(recipe: BaseRecipe, step: int) -> float:
    """Warm up, stay, then fall to zero linearly over the last steps."""
    warm = (step + 1) / max(1, recipe.warmup_steps)
    left = (recipe.steps - step) / max(1, recipe.decay_steps)
    return min(1.0, warm, left)


def _tokenizer(recipe: BaseRecipe, place: Path) -> Tokenizer:
    """Train the tokenizer once."""
    if not place.exists():
        text = train_tokenizer(recipe.model.vocabulary, recipe.seed).to_str()
        files.write_text(place, text)
    return Tokenizer.from_file(str(place))


def _report(
    state: _State, recipe: BaseRecipe, tokenizer: Tokenizer, out: Output, loss: float | None
) -> dict[str, Any]:
    """Evaluate the averaged weights on held-out scenes, log it, and save them."""
    figures = evaluate(state.average, Encoder(tokenizer), recipe)
    line = {"step": state.step, "time": int(time.time()), "loss": loss, **figures}
    files.append_lines(out.file("progress.jsonl"), [json.dumps(line)])
    log(f"base: step {state.step} {json.dumps(figures['accuracy'])}")
    if state.step < recipe.steps:
        save_student(state.average, tokenizer, out.file("snapshot"))
    return figures


def save_student(
    model: Qwen3VLForConditionalGeneration, tokenizer: Tokenizer, folder: Path
) -> None:
    """Write model (bfloat16), tokenizer, processor and chat template into a folder."""
    half = copy.deepcopy(model).bfloat16()
    folder.mkdir(parents=True, exist_ok=True)
    half.save_pretrained(folder)
    build_processor(tokenizer).save_pretrained(folder)


def _keep_memory() -> None:
    """Let the C library keep freed memory: giving pages back and forth costs a fifth of a step."""
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL("libc.so.6")
        library.mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD, its largest value
        library.mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
