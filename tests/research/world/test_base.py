"""The student's fast path equals the stock one, and its training can be interrupted."""

from __future__ import annotations

import json
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import Qwen3VLForConditionalGeneration, Qwen3VLProcessor

from research.world import base, base_feed, base_train
from research.world.base import BaseRecipe, Phase
from research.world.base_batch import (
    LessonEncoder,
    MicroBatch,
    _least_padded,
    micro_batches,
    patches_of,
)
from research.world.base_evaluate import held_lessons
from research.world.base_lessons import Lesson, full_listing, is_held, make_lesson
from research.world.base_model import Architecture, answer_logits, build_model
from research.world.base_sight import SightBatch
from research.world.base_tokenizer import SPECIALS, build_processor
from research.world.sample import partition_of
from research.world.scene import Scene, Thing
from unime.core.errors import RecipeError
from unime.core.provenance import open_output

STUDENT = Path(__file__).resolve().parents[3] / "assets" / "student"
TINY = Architecture(
    hidden=64, layers=2, heads=4, mlp=64,
    vision_hidden=32, vision_layers=2, vision_heads=2, vision_mlp=32,
)  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """The shipped one: training one takes seconds."""
    return Tokenizer.from_file(str(STUDENT / "tokenizer.json"))


@pytest.fixture(scope="module")
def processor(tokenizer: Tokenizer) -> Qwen3VLProcessor:
    return build_processor(tokenizer)


@pytest.fixture(scope="module")
def model() -> Qwen3VLForConditionalGeneration:
    return build_model(TINY, seed=0).eval()


def lessons(number: int, text_share: float = 0.3) -> list[Lesson]:
    rng = np.random.default_rng(3)
    return [make_lesson(rng, (1, 5), text_share, sprite_share=0.2) for _ in range(number)]


def messages(lesson: Lesson) -> list[dict]:
    """Write a lesson as chat messages."""
    chat: list[dict] = []
    if lesson.system:
        chat.append({"role": "system", "content": lesson.system})
    for number, turn in enumerate(lesson.turns):
        image = [{"type": "image"}] if number == 0 and lesson.pictures else []
        chat.append({"role": "user", "content": [*image, {"type": "text", "text": turn.question}]})
        chat.append({"role": "assistant", "content": [{"type": "text", "text": turn.answer}]})
    return chat


def processed(processor: Qwen3VLProcessor, lesson: Lesson) -> dict[str, torch.Tensor]:
    text = processor.apply_chat_template(messages(lesson), tokenize=False)
    images = list(lesson.pictures) or None
    return dict(processor(text=[text], images=images, return_tensors="pt"))  # type: ignore[call-arg]


def test_patches_equal_the_processor(processor: Qwen3VLProcessor) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    stock = processor.image_processor(images=list(pictures), return_tensors="pt")
    assert stock["image_grid_thw"].tolist() == [[1, 8, 8]] * 3
    torch.testing.assert_close(patches_of(pictures).flatten(0, 1), stock["pixel_values"])


def test_pieces_equal_the_chat_template(tokenizer: Tokenizer, processor: Qwen3VLProcessor) -> None:
    encoder = LessonEncoder(tokenizer)
    for lesson in lessons(40):
        ids = processed(processor, lesson)["input_ids"][0].tolist()
        # The template ends the last turn with a newline, which teaches nothing.
        assert [*encoder.encode(lesson).ids, *encoder.piece("\n")] == ids


def test_answers_equal_the_stock_forward_pass(
    tokenizer: Tokenizer,
    processor: Qwen3VLProcessor,
    model: Qwen3VLForConditionalGeneration,
) -> None:
    encoder = LessonEncoder(tokenizer)
    chosen = sorted(lessons(8), key=lambda lesson: len(encoder.encode(lesson).ids))
    (batch,) = micro_batches(chosen, encoder, number=1)
    with torch.inference_mode():
        logits, targets = answer_logits(model, batch)
        stock, expected = [], []
        for lesson in chosen:
            features = processed(processor, lesson)
            tokens = encoder.encode(lesson)
            answered = [i for start, stop, _ in tokens.spans for i in range(start, stop)]
            out = model(**features).logits[0]
            stock.append(out[[i - 1 for i in answered]])
            expected += [tokens.ids[i] for i in answered]
    assert targets.tolist() == expected
    torch.testing.assert_close(logits, torch.cat(stock), rtol=1e-4, atol=1e-4)


def test_chat_template(processor: Qwen3VLProcessor) -> None:
    chat = [
        {"role": "system", "content": "be short"},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what ?"}]},
    ]
    text = processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nbe short<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>what ?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


@settings(deadline=None)
@given(text=st.text(max_size=40).filter(lambda text: not any(s in text for s in SPECIALS)))
def test_any_text_survives_the_tokenizer(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_every_world_word_is_one_token(tokenizer: Tokenizer) -> None:
    for word in (" crimson", " circle", "left", " striped", "Yes", "No", "assistant"):
        assert len(tokenizer.encode(word).ids) == 1, word


def test_listing_names_everything_in_reading_order() -> None:
    scene = Scene(
        (Thing("star", "red", "small", "solid", 7), Thing("ring", "blue", "large", "dotted", 2)),
        "gray",
    )
    assert full_listing(scene, places=True) == (
        "top right : large dotted blue ring , bottom : small solid red star"
    )
    assert full_listing(scene, places=False) == "blue ring , red star"


def toy(folder: Path, **changes: object) -> BaseRecipe:
    values = {
        "stage": "base", "output": str(folder), "model": TINY, "steps": 4, "batch_size": 4,
        "sight_steps": 1, "sight_batch_size": 4,
        "micro_batches": 2, "curriculum": (Phase(until=9, objects=(1, 2)),), "warmup_steps": 1,
        "decay_steps": 2, "save_steps": 1, "eval_steps": 3, "eval_lessons": 4, "workers": 0,
        "threads": 2,
    }  # fmt: skip
    return BaseRecipe.model_validate({**values, **changes})


def test_batches_are_decided_by_seed_and_step(tokenizer: Tokenizer, tmp_path: Path) -> None:
    recipe = toy(tmp_path, batch_size=16, sight_every=3)
    for step, kind in ((0, SightBatch), (4, MicroBatch), (6, SightBatch)):
        first, again = (
            base_feed.make_batch(recipe, LessonEncoder(tokenizer), step) for _ in range(2)
        )
        other = base_feed.make_batch(recipe, LessonEncoder(tokenizer), step + 1)
        assert all(isinstance(part, kind) for part in first)
        assert all(map(same, first, again))
        assert not all(map(same, first, other))


def same(one: MicroBatch | SightBatch, other: MicroBatch | SightBatch) -> bool:
    return type(one) is type(other) and all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else a == b
        for a, b in zip(one, other, strict=True)
    )


def test_evaluation_scenes_are_never_trained_on(tmp_path: Path) -> None:
    held = held_lessons(toy(tmp_path, eval_lessons=16))
    assert all(is_held(lesson.scene) for lesson in held)
    assert {partition_of(lesson.scene) for lesson in held} == {"base"}


def run(recipe: BaseRecipe) -> None:
    out = open_output(recipe, base.inputs(recipe))
    base.run(recipe, out)
    out.finish()


def test_interrupted_run_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: Tokenizer
) -> None:
    monkeypatch.setattr(base_train, "train_tokenizer", lambda *_: tokenizer)
    run(toy(tmp_path / "whole"))
    step = base_train._step
    steps = 0

    def stop_after_two(*arguments: object) -> float:
        nonlocal steps
        steps += 1
        if steps == 3:
            raise KeyboardInterrupt
        return step(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(base_train, "_step", stop_after_two)
        with pytest.raises(KeyboardInterrupt):
            run(toy(tmp_path / "cut"))
    run(toy(tmp_path / "cut"))
    whole, cut = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    fresh = build_model(TINY, seed=0).state_dict()
    assert not torch.equal(whole["model.visual.pos_embed.weight"].float(),
                           fresh["model.visual.pos_embed.weight"])  # fmt: skip
    run(toy(tmp_path / "on", start=str(tmp_path / "cut"), learning_rate=0))
    on = load_file(tmp_path / "on" / "model.safetensors")
    assert all(torch.equal(cut[name], on[name]) for name in cut)
    larger = TINY.model_copy(update={"mlp": 96})
    with pytest.raises(RecipeError, match="cut has other sizes than the recipe's `model`"):
        run(toy(tmp_path / "off", start=str(tmp_path / "cut"), model=larger))
    figures = json.loads((tmp_path / "cut" / "figures.json").read_text())
    assert set(figures) == {"accuracy", "answers", "loss"}


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8), st.integers(1, 4))
def test_lessons_are_cut_where_padding_is_least(lengths: list[int], number: int):
    lengths = sorted(lengths)

    def padded(ends) -> int:
        return sum((b - a) * lengths[b - 1] for a, b in pairwise([0, *ends]))

    ends = _least_padded(lengths, number)
    ways = (
        (*cuts, len(lengths))
        for parts in range(number)
        for cuts in combinations(range(1, len(lengths)), parts)
    )
    assert ends == sorted(set(ends)) and ends[-1] == len(lengths) and len(ends) <= number
    assert padded(ends) == min(map(padded, ways))
