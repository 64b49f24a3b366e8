"""The first lessons of the student's eyes, and the optimizer of all its lessons."""

from __future__ import annotations

import numpy as np
import torch

from research.world import base_sight
from research.world.base_lessons import is_held
from research.world.base_muon import Muon, orthogonalise
from research.world.base_sight import NOTHING, SightHeads, sight_batches, sight_loss, vocabulary
from research.world.base_tokenizer import train_tokenizer
from research.world.scene import Scene, Thing

RED, BLUE = (
    Thing("circle", "red", "large", "striped", 0),
    Thing("star", "blue", "small", "solid", 8),
)


def said(batch: base_sight.SightBatch, picture: int, token: int) -> list[str]:
    words = [list(field) for field in vocabulary("base")]
    values = batch.values[picture, token].tolist()
    return [field[v] for field, v in zip(words, values, strict=True) if v != NOTHING]


def test_the_token_that_holds_a_things_centre_names_it(monkeypatch) -> None:
    scene = Scene((RED, BLUE), "teal")
    monkeypatch.setattr(base_sight, "sample_scene", lambda *_, **__: scene)
    monkeypatch.setattr(base_sight, "is_held", lambda _: False)
    monkeypatch.setattr(base_sight, "CROP_SHARE", 0)
    (batch,) = sight_batches(np.random.default_rng(0), 1, 1)
    # Cells 0 and 8 are centred at 12 and 52 of 64 pixels: the first and the last of 4 x 4 tokens.
    assert batch.present[0].nonzero().flatten().tolist() == [0, 15]
    assert said(batch, 0, 0) == ["circle", "red", "large", "striped", "top left", "teal"]
    assert said(batch, 0, 15) == ["star", "blue", "small", "solid", "bottom right", "teal"]
    assert said(batch, 0, 5) == ["teal"]
    # A crop shows its thing twice as large; the other one is far outside.
    monkeypatch.setattr(base_sight, "CROP_SHARE", 1)
    (batch,) = sight_batches(np.random.default_rng(0), 1, 1)
    (token,) = batch.present[0].nonzero().flatten().tolist()
    # Its place in the crop is another one than in the scene.
    assert said(batch, 0, token)[:-1] in (
        ["circle", "red", "large", "striped"], ["star", "blue", "small", "solid"]
    )  # fmt: skip
    heads = SightHeads(torch.nn.Embedding(512, 4), train_tokenizer(512, seed=0))
    assert torch.isfinite(sight_loss(heads, torch.zeros(16, 4), batch))


def test_scenes_kept_for_evaluation_are_never_seen(monkeypatch) -> None:
    seen: list[Scene] = []
    render = base_sight.render
    monkeypatch.setattr(base_sight, "render", lambda scene: seen.append(scene) or render(scene))
    sight_batches(np.random.default_rng(0), 40, 2)
    assert seen and not any(map(is_held, seen))
    seen.clear()
    sight_batches(np.random.default_rng(0), 20, 1, held=True)
    assert seen and all(map(is_held, seen))


def test_a_right_reading_costs_nothing_and_a_wrong_one_much() -> None:
    (batch,) = sight_batches(np.random.default_rng(0), 8, 1)
    heads = SightHeads(torch.nn.Embedding(512, 4), train_tokenizer(512, seed=0))
    answers = [20.0 * (2 * batch.present.flatten() - 1)]
    for field, words in enumerate(vocabulary("base")):
        target = batch.values[..., field].flatten().clamp(min=0)
        answers.append(40.0 * torch.nn.functional.one_hot(target, len(words)).float())
    heads.forward = lambda _: (answers[0], answers[1:])  # type: ignore[method-assign]
    assert sight_loss(heads, torch.zeros(128, 4), batch).item() < 1e-4
    heads.forward = lambda _: (-answers[0], [-a for a in answers[1:]])  # type: ignore[method-assign]
    assert sight_loss(heads, torch.zeros(128, 4), batch).item() > 20


def test_what_is_seen_is_read_through_the_words_themselves() -> None:
    tokenizer = train_tokenizer(1024, seed=0)
    words = torch.nn.Embedding(1024, 256)
    heads = SightHeads(words, tokenizer)
    assert "words" not in " ".join(heads.state_dict())
    shown = [words.weight[tokenizer.encode(f" {word}").ids].mean(0) for word in ("red", "circle")]
    _, (kinds, colours, *_) = heads(torch.stack(shown))
    known = vocabulary("base")
    assert (
        int(colours[0].argmax()) == known[1]["red"] and int(kinds[1].argmax()) == known[0]["circle"]
    )
    kinds.sum().backward()
    assert words.weight.grad is not None and words.weight.grad.any()


def test_muon_is_torchs_but_for_its_precision() -> None:
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (
        [torch.ones(6, 20).div(9).requires_grad_(), torch.eye(8).requires_grad_()] for _ in range(2)
    )
    mine = Muon(ours, lr=0.02, weight_decay=0.1)
    stock = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn(one.shape, generator=generator)
            other.grad = one.grad.clone()
        mine.step()
        stock.step()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=2e-3, rtol=0)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(3, 9, 5, generator=generator)))
    assert values.min() > 0.5 and values.max() < 1.3
