"""Prompts that share their beginning get the logits of independent runs, in five families."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from tests.families import FAMILIES, build_family
from unime.models.backbones import load_generative
from unime.models.image_blocks import KeyedImage
from unime.models.model_config import ModelConfig
from unime.models.next_token import NextToken, shared_length
from unime.models.pair_scorer import PairInput, PairScorer, PairSide
from unime.models.prompts import load_judge_prompt

PROMPT = "judge/yes_no.v1"


@pytest.fixture(scope="module", params=FAMILIES)
def loaded(request, tmp_path_factory):
    folder = build_family(request.param, tmp_path_factory.mktemp(request.param))
    config = ModelConfig(id=str(folder), prompt=PROMPT, dtype="float32", max_pixels=56 * 56)
    return load_generative(config, "cpu")


def picture(seed: int) -> KeyedImage:
    size = (40, 30 + 20 * (seed % 3), 3)
    pixels = np.random.default_rng(seed).integers(0, 255, size, np.uint8)
    return KeyedImage(seed.to_bytes(16, "big"), lambda: Image.fromarray(pixels))


def scorer(loaded, batch_size: int = 3) -> PairScorer:
    model, processor, _ = loaded
    return PairScorer(model, processor, load_judge_prompt(PROMPT), 4096, batch_size)


def independent(loaded, pair: PairInput) -> torch.Tensor:
    """One pair through processor and model as transformers' users call them."""
    model, processor, tokenizer = loaded
    prompt = scorer(loaded).prompted(pair)
    begin = tokenizer.bos_token
    inputs = processor(
        text=[prompt.text],
        images=[[p.open() for p in prompt.pictures]] if prompt.pictures else None,
        add_special_tokens=begin is None or not prompt.text.startswith(begin),
        return_tensors="pt",
    )
    with torch.no_grad():
        return model(**inputs).logits[0, -1]


QUERY_KINDS = {
    "text": PairSide("a red circle left of a blue square"),
    "image": PairSide("", picture(1)),
    "image_text": PairSide("the large yellow triangle", picture(2)),
}
CANDIDATES = [
    PairSide("a blue square"),
    PairSide("the small purple star above the triangle " * 3),
    PairSide("", picture(11)),
    PairSide("", picture(12)),
    PairSide("a red circle", picture(13)),
    # The query's own picture, and one shown twice.
    PairSide("", picture(1)),
    PairSide("the small star", picture(11)),
]


@pytest.mark.parametrize("kind", QUERY_KINDS)
def test_shared_beginnings_give_the_logits_of_independent_runs(loaded, kind):
    pairs = [PairInput("find it", QUERY_KINDS[kind], candidate) for candidate in CANDIDATES]
    answers = scorer(loaded).read(pairs, lambda logits: logits)
    expected = torch.stack([independent(loaded, pair) for pair in pairs]).double()
    torch.testing.assert_close(answers.values, expected, atol=1e-4, rtol=0)
    # A model that did not see the candidates would pass the line above.
    assert answers.values.std(dim=0).max() > 0.1


def test_the_beginning_holds_the_query_and_its_picture(loaded):
    pairs = [PairInput("find it", QUERY_KINDS["image_text"], c) for c in CANDIDATES[:2]]
    ours = scorer(loaded)
    rows = NextToken(*loaded[:2]).tokenize([ours.prompted(pair) for pair in pairs])
    shared = shared_length(rows)
    tokenizer = loaded[2]
    assert "the large yellow triangle" in tokenizer.decode(rows[0].ids[:shared])
    assert int((rows[0].owner[:shared] > 0).sum()) == len(rows[0].seen[0].features) > 0


def test_batch_size_order_and_company_change_no_score(loaded):
    pairs = [PairInput("", query, c) for query in QUERY_KINDS.values() for c in CANDIDATES]
    together = scorer(loaded, 2).read(pairs, lambda logits: logits).values
    backwards = scorer(loaded, 16).read(pairs[::-1], lambda logits: logits).values
    torch.testing.assert_close(together, backwards.flip(0), atol=1e-5, rtol=0)


def test_a_picture_is_opened_once_while_it_is_remembered(loaded):
    opened: list[int] = []

    def counted(seed: int) -> KeyedImage:
        inner = picture(seed)
        return KeyedImage(inner.key, lambda: (opened.append(seed), inner.open())[1])

    query = PairSide("", counted(1))
    pairs = [PairInput("", query, PairSide("", counted(seed))) for seed in (2, 3, 2)]
    ours = scorer(loaded)
    ours.read(pairs, lambda logits: logits)
    ours.read(pairs, lambda logits: logits)
    assert sorted(opened) == [1, 2, 3]
