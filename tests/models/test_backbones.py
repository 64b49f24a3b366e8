"""The judge's side of a model."""

from __future__ import annotations

import torch

from tests.families import build_family
from tests.models.inputs import picture
from unime.models.backbones import load_generative
from unime.models.model_config import ModelConfig
from unime.models.prompts import load_judge_prompt


def test_left_padded_answers_equal_those_of_a_batch_of_one(family: str, tmp_path) -> None:
    config = ModelConfig(id=str(build_family(family, tmp_path)), max_pixels=4096)
    model, processor, tokenizer = load_generative(config, "cpu")
    assert tokenizer.padding_side == "left"
    prompt = load_judge_prompt("judge/yes_no.v1")
    conversations, images = [], []
    for query, candidate in (
        (("ring", False), ("", True)),
        (("", True), ("a long text " * 9, True)),
    ):
        system, asked, offered = prompt.render("Find it.", query, candidate)
        messages = [
            {"role": "system", "content": [{"type": "text", "text": system}]},
            {"role": "user", "content": [*asked, *offered]},
        ]
        conversations.append(processor.apply_chat_template(messages))
        images.append([picture(number) for number in range(query[1] + candidate[1])])
    with torch.inference_mode():
        batch = processor(text=conversations, images=images, padding=True, return_tensors="pt")
        together = model(**batch).logits[:, -1]
        for row, (text, own) in enumerate(zip(conversations, images, strict=True)):
            single = processor(text=[text], images=[own], return_tensors="pt")
            alone = model(**single).logits[0, -1]
            torch.testing.assert_close(together[row], alone, atol=2e-5, rtol=0)
