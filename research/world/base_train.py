"""Teach the student: the loop, its checkpoints, and the folder it leaves."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch.nn import functional
from transformers import Qwen3VLForConditionalGeneration

from research.world.base_batch import LessonEncoder, MicroBatch
from research.world.base_evaluate import OBJECTS, evaluate
from research.world.base_feed import Batch, batches
from research.world.base_model import answer_logits, build_model, share_words, vision_features
from research.world.base_muon import Muon
from research.world.base_recipe import BaseRecipe
from research.world.base_sight import (
    SightBatch,
    SightHeads,
    sight_accuracy,
    sight_batches,
    sight_loss,
)
from research.world.base_tokenizer import build_processor, train_tokenizer
from unime.core import files
from unime.core.console import log
from unime.core.errors import RecipeError
from unime.core.provenance import Output


def train(recipe: BaseRecipe, out: Output) -> None:
    """Train from the last checkpoint, or from the beginning, to the last step."""
    pool = ThreadPoolExecutor(recipe.threads, initializer=torch.set_num_threads, initargs=(1,))
    torch.set_num_threads(1)
    _keep_memory()
    tokenizer = _tokenizer(recipe, out.file("tokenizer.partial.json"))
    model = build_model(recipe.model, recipe.seed)
    share_words(model, tokenizer)
    if recipe.start is not None:
        _go_on_from(recipe.start, model)
    state = _State(model, recipe, tokenizer)
    place = out.file("checkpoint.pt")
    if place.exists():
        state.load(place)
        log(f"base: resumed at step {state.step}")
    start, lessons = time.monotonic(), 0
    for micro_batches in batches(recipe, tokenizer, state.step):
        loss = _step(state, micro_batches, recipe, pool)
        sight = isinstance(micro_batches[0], SightBatch)
        lessons += recipe.sight_batch_size if sight else recipe.batch_size
        if state.step % 20 == 0:
            rate = lessons / (time.monotonic() - start)
            log(f"base: step {state.step}/{recipe.steps} loss {loss:.3f} {rate:.0f}/s")
        if state.step % recipe.eval_steps == 0 and state.step < recipe.steps:
            torch.set_num_threads(recipe.threads)
            _report(state, recipe, tokenizer, out, loss)
            torch.set_num_threads(1)
        if state.step % recipe.save_steps == 0:
            state.save(place)
            out.save_progress()
    state.save(place)
    figures = _report(state, recipe, tokenizer, out, loss=None)
    save_student(state.average, tokenizer, out.path)
    files.write_json(out.file("figures.json"), figures)
    out.facts(figures=figures, parameters=sum(p.numel() for p in model.parameters()))
    files.remove_file(place)
    files.remove_file(out.file("tokenizer.partial.json"))


def _go_on_from(start: str, model: Qwen3VLForConditionalGeneration) -> None:
    taught = Qwen3VLForConditionalGeneration.from_pretrained(start, dtype=torch.float32)
    try:
        model.load_state_dict(taught.state_dict())
    except RuntimeError as error:
        raise RecipeError(
            f"start: {start} has other sizes than the recipe's `model`; give its own "
            f"({' '.join(str(error).split())[:200]})"
        ) from None


class _State:
    """All that a checkpoint holds: weights, their moving average, optimizers, step."""

    def __init__(
        self, model: Qwen3VLForConditionalGeneration, recipe: BaseRecipe, tokenizer: Tokenizer
    ) -> None:
        self.model = model.train()
        self.average = build_model(recipe.model, recipe.seed).eval()
        self.average.load_state_dict(model.state_dict())
        words = model.model.language_model.embed_tokens
        self.heads = SightHeads(words, tokenizer, recipe.partition)
        named = list(self.named_parameters())
        matrices = [p for name, p in named if _is_matrix(name, p)]
        others = [p for name, p in named if not _is_matrix(name, p)]
        rate = recipe.learning_rate
        self.optimizers: list[torch.optim.Optimizer] = [
            Muon(matrices, rate, weight_decay=recipe.weight_decay, bf16=recipe.in_bfloat16),
            torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.98), weight_decay=0.0),
        ]
        self.step = 0

    def named_parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """Yield what is trained: the model, and what reads its vision tower in the first lessons."""
        yield from self.model.named_parameters()
        yield from ((f"heads.{name}", p) for name, p in self.heads.named_parameters())

    def save(self, place: Path) -> None:
        state = {
            "step": self.step,
            "model": self.model.state_dict(),
            "heads": self.heads.state_dict(),
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
        self.heads.load_state_dict(state["heads"])
        for optimizer, values in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(values)


def _is_matrix(name: str, parameter: torch.nn.Parameter) -> bool:
    """Muon is for hidden layers; embeddings look things up, they don't map; heads go out."""
    return parameter.ndim == 2 and "embed" not in name and "heads" not in name


def _step(state: _State, parts: Batch, recipe: BaseRecipe, pool: ThreadPoolExecutor) -> float:
    """Take one optimizer step; the loss is the mean over the whole batch.

    Each part runs on one thread: on a busy machine, threads that share every operation wait for
    each other all the time. Gradients are added in a fixed order.
    """
    parameters = [parameter for _, parameter in state.named_parameters()]
    losses = _losses(state, parts)

    def differentiate(loss: Callable[[], torch.Tensor]) -> tuple[float, tuple[Any, ...]]:
        # Autocast is a thread's own.
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.in_bfloat16):
            value = loss()
        return value.item(), torch.autograd.grad(value, parameters, allow_unused=True)

    # The longest come first, so that no thread is left with one alone at the end.
    done = list(pool.map(differentiate, reversed(losses)))
    for parameter, *gradients in zip(parameters, *(part[1] for part in done), strict=True):
        # Without any picture in the batch, the vision tower has no gradient.
        found = [gradient for gradient in gradients if gradient is not None]
        parameter.grad = torch.stack(found).sum(dim=0) if found else None
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    rate = recipe.learning_rate * learning_rate_factor(recipe, state.step)
    for optimizer in state.optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
    torch.set_num_threads(recipe.threads)
    for optimizer in state.optimizers:
        optimizer.step()
    torch.set_num_threads(1)
    state.step += 1
    # Early weights are soon wrong: average over a tenth of the run at most.
    keep = min(recipe.ema_decay, 1 - 10 / (10 + state.step))
    with torch.no_grad():
        pairs = zip(state.average.parameters(), state.model.parameters(), strict=True)
        for average, current in pairs:
            average.lerp_(current, 1 - keep)
    return sum(part[0] for part in done)


def _losses(state: _State, parts: Batch) -> list[Callable[[], torch.Tensor]]:
    """Return each part's share of the batch's mean loss, not computed yet."""
    total = sum(float(part.weights.sum()) for part in parts if isinstance(part, MicroBatch))

    def share(part: MicroBatch | SightBatch) -> torch.Tensor:
        if isinstance(part, MicroBatch):
            return _answer_loss(state.model, part, total)
        features, _ = vision_features(state.model.model.visual, part.patches)
        return sight_loss(state.heads, features, part) / len(parts)

    return [partial(share, part) for part in parts]


def _answer_loss(
    model: Qwen3VLForConditionalGeneration, batch: MicroBatch, total: float
) -> torch.Tensor:
    """Return a part's share of the weighted mean over the batch's answers."""
    logits, targets = answer_logits(model, batch)
    weights = batch.weights[:, 1:]
    losses = functional.cross_entropy(logits, targets, reduction="none")
    return (losses * weights[weights > 0]).sum() / total


def learning_rate_factor(recipe: BaseRecipe, step: int) -> float:
    """Warm up, stay, then fall to zero linearly over the last steps."""
    warm = (step + 1) / max(1, recipe.warmup_steps)
    left = (recipe.steps - step) / max(1, recipe.decay_steps)
    return min(1.0, warm, left)


def _tokenizer(recipe: BaseRecipe, place: Path) -> Tokenizer:
    """Train the tokenizer once, or take that of the model to go on from."""
    if not place.exists():
        if recipe.start is not None:
            made = Tokenizer.from_file(str(Path(recipe.start, "tokenizer.json")))
        else:
            made = train_tokenizer(recipe.model.vocabulary, recipe.seed)
        files.write_text(place, made.to_str())
    return Tokenizer.from_file(str(place))


def _report(
    state: _State, recipe: BaseRecipe, tokenizer: Tokenizer, out: Output, loss: float | None
) -> dict[str, Any]:
    """Evaluate the averaged weights on held-out scenes, log it, and save them."""
    if state.step <= recipe.sight_steps:
        figures = {"accuracy": _sight_figures(state, recipe)}
    else:
        figures = evaluate(state.average, LessonEncoder(tokenizer), recipe)
    line = {"step": state.step, "time": int(time.time()), "loss": loss, **figures}
    files.append_lines(out.file("progress.jsonl"), [json.dumps(line)])
    log(f"base: step {state.step} {json.dumps(figures['accuracy'])}")
    if state.step < recipe.steps:
        save_student(state.average, tokenizer, out.file("snapshot"))
    return figures


@torch.inference_mode()
def _sight_figures(state: _State, recipe: BaseRecipe) -> dict[str, float]:
    """Measure the vision tower on scenes kept for evaluation."""
    rng = np.random.default_rng((recipe.seed, 1 << 41))
    (batch,) = sight_batches(rng, recipe.eval_lessons, 1, OBJECTS, True, recipe.partition)
    features, _ = vision_features(state.average.model.visual, batch.patches)
    return sight_accuracy(state.heads, features, batch)


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
