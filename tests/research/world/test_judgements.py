"""The judge's lessons: asked as the judge is asked, true, and of nobody else's scenes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tokenizers import Tokenizer
from transformers import Qwen3VLForConditionalGeneration

from research.world import judgements as judgements_module
from research.world.base_batch import LessonEncoder, micro_batches
from research.world.base_lessons import make_lesson
from research.world.base_model import Architecture, answer_logits, build_model
from research.world.base_tokenizer import train_tokenizer
from research.world.build import TASKS
from research.world.claims import (
    ABOUT_A_PICTURE,
    KINDS,
    PICTURED,
    claims_about_a_picture,
    pictures_of_a_claim,
)
from research.world.examples import GenerationPlan
from research.world.sample import partition_of, sprite_names
from research.world.scene import Scene, matches
from research.world.truth import relevant
from unime.judge.truth_report import auc
from unime.models.image_blocks import KeyedImage
from unime.models.pair_scorer import PairInput, PairScorer, PairSide
from unime.models.prompts import load_judge_prompt

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(1024, seed=0)


@pytest.fixture(scope="module")
def encoder(tokenizer: Tokenizer) -> LessonEncoder:
    return LessonEncoder(tokenizer)


def test_every_query_has_its_answer_and_wrong_ones_that_weigh_three_times_as_much(
    encoder: LessonEncoder,
):
    drawn = encoder.judgements.draw(np.random.default_rng(0), 200)
    for judgement in drawn:
        assert {"Yes", "No"} == set(judgement.answers)
        tokens = encoder.encode(judgement)
        weights = np.array([tokens.weights[start] for start, _, _ in tokens.spans])
        right = np.array([answer == "Yes" for answer in judgement.answers])
        assert weights[right].sum() == pytest.approx(weights[~right].sum() / 3)
    assert len({judgement.kind for judgement in drawn}) == sum(t.trained for t in TASKS.values())


@pytest.mark.parametrize("name", sorted(name for name, task in TASKS.items() if task.trained))
def test_scenes_and_sprites_are_the_judges_own(name: str):
    families = TASKS[name].generate(
        GenerationPlan(np.random.default_rng(1), 12, judgements_module.PARTITION)
    )
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


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 10_000), objects=st.sampled_from([(1, 1), (1, 3), (2, 5)]))
def test_claims_are_true_or_false_as_said_and_as_often(kind: str, seed: int, objects):
    rng = np.random.default_rng(seed)
    picture, found = claims_about_a_picture(rng, objects, kind, "judge")
    assert isinstance(picture.meaning, Scene) and partition_of(picture.meaning) == "judge"
    right = [matches(one.meaning, picture.meaning) for one in found]  # type: ignore[arg-type]
    assert len(found) == ABOUT_A_PICTURE and right == sorted(right, reverse=True)
    assert abs(sum(right) - len(right) / 2) <= 1
    claim, pictures = pictures_of_a_claim(rng, objects, kind, "judge")
    assert claim.text and matches(claim.meaning, pictures[0].meaning)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", PICTURED)
@given(seed=st.integers(0, 10_000), objects=st.sampled_from([(1, 3), (2, 5)]))
def test_claims_of_pictures_have_right_and_wrong_ones_of_the_judges_own(kind: str, seed, objects):
    query, found = PICTURED[kind](np.random.default_rng(seed), objects, "judge")
    right = [relevant(query.meaning, one.meaning) for one in found]
    assert right[0] and 0 < sum(right) < len(right)
    for one in (query, *found):
        assert one.picture is None or partition_of(one.picture.scene) == "judge"


def test_terse_judgements_say_the_same_in_fewer_tokens(encoder: LessonEncoder):
    made = encoder.judgements
    long, short = (made.draw(np.random.default_rng(3), 20, terse=terse) for terse in (0.0, 1.0))
    assert [(one.kind, one.answers) for one in long] == [(one.kind, one.answers) for one in short]
    tokens = [sum(len(encoder.encode(one).ids) for one in some) for some in (long, short)]
    assert tokens[1] < 0.6 * tokens[0]
    for one in made.claims(np.random.default_rng(4), 20, (1, 3), terse=1.0):
        spans = encoder.encode(one).spans
        assert len(spans) == len(one.answers) == len(one.prompts)


def test_asked_as_the_judge_in_process_asks(encoder: LessonEncoder):
    made, processor = encoder.judgements, encoder.judgements._processor
    rng = np.random.default_rng(2)
    task = TASKS["edits"]
    example, other, *_ = (
        e for family in task.generate(GenerationPlan(rng, 4, "judge")) for e in family
    )
    candidates = (other.target, example.target)
    judgement = made.judgement(
        "judge/yes_no.v1", task.query_instruction, example.query, candidates, "pair edits"
    )
    assert judgement.answers == ("No", "Yes")
    query, *targets = (
        PairSide(
            content.text,
            KeyedImage(bytes([number]), lambda n=number: Image.fromarray(judgement.pictures[n])),
        )
        for number, content in enumerate((example.query, *candidates))
    )
    model = build_model(
        Architecture(vocabulary=1024, hidden=64, layers=2, mlp=64, vision_hidden=32, vision_mlp=32),
        0,
    ).eval()
    prompt = load_judge_prompt("judge/yes_no.v1")
    scorer = PairScorer(model, processor, prompt, 1024, 4)
    pairs = [PairInput(task.query_instruction, query, target) for target in targets]
    assert tuple(scorer.prompted(pair).text for pair in pairs) == judgement.prompts
    answers = scorer.read(pairs, lambda logits: logits)
    lesson = make_lesson(rng, (2, 3), 0.0, 0.0)
    (batch,) = micro_batches([judgement, lesson], encoder, number=1)
    row = next(n for n, spans in enumerate(batch.spans) if spans[0][2] == "pair edits")
    # What the prompts share is there once.
    trunk = int((batch.branches[row, : batch.spans[row][0][0]] == 0).sum())
    assert [trunk + int((batch.branches[row] == n).sum()) - 1 for n in (1, 2)] == answers.lengths
    with torch.inference_mode():
        logits, wanted = answer_logits(model, batch)
    place = sum(stop - start for spans in batch.spans[:row] for start, stop, _ in spans)
    assert wanted[place : place + 2].tolist() == [encoder.piece(a)[0] for a in ("No", "Yes")]
    torch.testing.assert_close(
        logits[place : place + 2].double(), answers.values, rtol=1e-4, atol=1e-4
    )


def test_the_shipped_judge_tells_right_from_wrong():
    folder = ROOT / "assets/judge"
    assert (folder / "model.safetensors").stat().st_size <= 40e6
    model = Qwen3VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    encoder = LessonEncoder(Tokenizer.from_file(str(folder / "tokenizer.json")))
    yes, no = (encoder.piece(answer)[0] for answer in ("Yes", "No"))
    # No step of its lessons draws from this stream.
    made = encoder.judgements.draw(np.random.default_rng((99, 1 << 42)), 60)
    margins, right, masses = [], [], []
    for batch in micro_batches(made, encoder, number=4):
        with torch.inference_mode():
            logits, targets = answer_logits(model, batch)
        margins.append(logits[:, yes] - logits[:, no])
        right.append(targets == yes)
        masses.append(logits.softmax(-1)[:, [yes, no]].sum(-1))
    # It answers, and does not begin to say something else.
    answered = torch.cat(masses)
    assert answered.min() > 0.5 and answered.mean() > 0.999
    found = auc(torch.cat(margins).numpy(), torch.cat(right).numpy())
    assert found is not None and found > 0.95
