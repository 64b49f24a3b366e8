"""The judge's lessons: asked as the judge is asked, true, and of nobody else's scenes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer

from unime.models.pair_scorer import PairInput, PairScorer, Side
from unime.models.pictures import Picture
from unime.prompts import load_judge_prompt
from world import judgements as judgements_module
from world.base_batch import Encoder, micro_batches
from world.base_model import Architecture, answer_logits, build_model
from world.base_tokenizer import train_tokenizer
from world.build import TASKS
from world.examples import Plan
from world.sample import partition_of, sprite_names


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(1024, seed=0)


@pytest.fixture(scope="module")
def encoder(tokenizer: Tokenizer) -> Encoder:
    return Encoder(tokenizer)


def test_half_is_right_and_most_kinds_have_two_pictures_or_one(encoder: Encoder):
    drawn = encoder.judgements.draw(np.random.default_rng(0), 600)
    share = np.mean([judgement.answer == "Yes" for judgement in drawn])
    assert 0.45 < share < 0.6
    assert {len(judgement.pictures) for judgement in drawn} == {1, 2}
    assert len({judgement.kind for judgement in drawn}) == sum(t.trained for t in TASKS.values())


@pytest.mark.parametrize("name", sorted(name for name, task in TASKS.items() if task.trained))
def test_scenes_and_sprites_are_the_judges_own(name: str):
    families = TASKS[name].generate(Plan(np.random.default_rng(1), 12, judgements_module.PARTITION))
    known = set(sprite_names("judge"))
    pictures = [
        content.picture
        for family in families
        for example in family
        for content in (example.query, example.target, *(near for _, near in example.near))
        if content.picture is not None
    ]
    assert pictures
    for picture in pictures:
        assert partition_of(picture.scene) == "judge"
        assert {thing.kind for thing in picture.scene.things if thing.is_sprite} <= known


def test_asked_as_the_judge_in_process_asks(encoder: Encoder):
    made, processor = encoder.judgements, encoder.judgements._processor
    rng = np.random.default_rng(2)
    task = TASKS["edits"]
    ((example, *_), *_) = task.generate(Plan(rng, 4, "judge"))
    judgement = made.judgement(
        "judge/yes_no.v1", task.query_instruction, example.query, example.target, "edits"
    )
    assert judgement.answer == "Yes"
    query, target = (
        Side(
            content.text,
            Picture(bytes([number]), lambda n=number: Image.fromarray(judgement.pictures[n])),
        )
        for number, content in enumerate((example.query, example.target))
    )
    model = build_model(
        Architecture(vocabulary=1024, hidden=64, layers=2, mlp=64, vision_hidden=32, vision_mlp=32),
        0,
    ).eval()
    prompt = load_judge_prompt("judge/yes_no.v1")
    scorer = PairScorer(model, processor, prompt, 1024, 4)
    pair = PairInput(task.query_instruction, query, target)
    assert scorer.prompted(pair).text == judgement.prompt
    answers = scorer.read([pair], lambda logits: logits)
    (batch,) = micro_batches([judgement, judgement], encoder, number=1)
    assert answers.lengths == [len(encoder.encode(judgement).ids) - 1]
    with torch.inference_mode():
        logits, targets = answer_logits(model, batch)
    assert targets.tolist() == [encoder.piece("Yes")[0]] * 2
    torch.testing.assert_close(logits[0].double(), answers.values[0], rtol=1e-4, atol=1e-4)
