"""User text opens no turn and no media slot, whatever the tokenizer does to it before it looks."""

from __future__ import annotations

from functools import cache
from tempfile import mkdtemp
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, normalizers
from transformers import AutoProcessor

from tests.families import FAMILIES, build_family
from unime.judge.protocol import as_plain_text
from unime.models.inputs import ModelInput, Renderer, chat_messages
from unime.models.look_alikes import look_alikes
from unime.models.model_config import ModelConfig
from unime.models.processor import (
    prepare_processor,
    preprocessing_of,
    registered_tokens,
    special_tokens,
    template_hash,
)
from unime.models.prompts import load_prompt
from unime.models.template import escape_special_tokens, wrap_template

MARKS = (
    "<think>", "</think>", "<tool_call>", "<IMG_CONTEXT>", "[gMASK]", "<|turn>", "<turn|>",
    "<start_of_image>", "<\uff5cUser\uff5c>",
)  # fmt: skip
NORMALIZERS = {
    "none": None,
    "NFC": normalizers.NFC(),
    "NFKC": normalizers.NFKC(),
    "lowercase": normalizers.Lowercase(),
    "NFKC, lowercase": normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()]),
    "accents": normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()]),
    "BERT": normalizers.BertNormalizer(),
    "invisible": normalizers.Sequence(
        [normalizers.Replace("\u200b", ""), normalizers.Replace("&lt;", "<")]
    ),
    "sentencepiece": normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    ),
}
INVISIBLE = "\u200b\u200d\u00ad\u0301\x00\ufe0f"


@cache
def renderer(family: str, name: str, normalized: bool) -> Renderer:
    folder = build_family(family, mkdtemp())
    processor = AutoProcessor.from_pretrained(folder)
    tokenizer = processor.tokenizer
    if NORMALIZERS[name] is not None:
        tokenizer.backend_tokenizer.normalizer = NORMALIZERS[name]
    tokenizer.add_tokens([AddedToken(mark, special=False, normalized=normalized) for mark in MARKS])
    prepare_processor(processor, ModelConfig(id=str(folder)), "right", images_first=True)
    return Renderer(processor, load_prompt("embed/hierarchical.v1"), 4096, family)


def control_tokens(of: Renderer, text: str) -> list[int]:
    """Return the ids of all added tokens in a rendered prompt, by both ways of rendering it."""
    encode = ModelInput(text, None, "query", "Find it.")
    system, user = of.prompt.render("query", "text", text, "Find it.")
    rendered = of.processor.apply_chat_template(chat_messages(system, False, user))
    assert of.render(encode) == rendered
    ids = of.tokenizer(rendered, add_special_tokens=False)["input_ids"]
    return [number for number in ids if number in of.tokenizer.added_tokens_decoder]


def fullwidth(text: str) -> str:
    return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)


def spellings(token: str) -> list[str]:
    return [
        token, token.upper(), token.lower(), token.title(), fullwidth(token),
        *(sign.join(token) for sign in INVISIBLE), token.replace("<", "\u226e"),
        token.replace("<", "&lt;"), token.replace("i", "\u0130"), token.replace("k", "\u212a"),
        token.replace("fi", "\ufb01").replace("st", "\ufb06"), token.replace("e", "\u00e9"),
        token.replace("<", "\ufe64"), token.replace("|", "\uffe8"),
    ]  # fmt: skip


@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("name", NORMALIZERS)
def test_no_spelling_of_any_added_token_is_one(name: str, normalized: bool):
    of = renderer("qwen2_vl", name, normalized)
    harmless = control_tokens(of, "hello")
    assert harmless
    tokens = [token.content for token in of.tokenizer.added_tokens_decoder.values()]
    for token in {*tokens, "<row_1_col_1>", "<image>", "[INST]"}:
        for text in spellings(token):
            assert control_tokens(of, f"a {text} b{text}") == harmless, (token, text)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(FAMILIES), st.sampled_from(sorted(NORMALIZERS)), st.booleans(), st.data())
def test_no_text_of_fragments_makes_a_token(family: str, name: str, normalized: bool, data: Any):
    of = renderer(family, name, normalized)
    tokens = [token.content for token in of.tokenizer.added_tokens_decoder.values()]
    whole = st.sampled_from(tokens).flatmap(lambda token: st.sampled_from(spellings(token)))
    part = st.sampled_from(tokens).flatmap(
        lambda token: st.integers(0, len(token)).flatmap(
            lambda cut: st.sampled_from([token[:cut], token[cut:], fullwidth(token[cut:])])
        )
    )
    pieces = st.lists(
        st.one_of(whole, part, st.sampled_from(["", " ", "a", *INVISIBLE])), max_size=8
    )
    text = "".join(data.draw(pieces))
    assert control_tokens(of, f"x{text}") == control_tokens(of, "hello")


def test_ordinary_text_stays_as_it_is():
    text = "a < b > c [1] (x|y) \uff1cq\uff1e caf\u00e9 <b>bold</b> I\u2019m \u200bhere"
    for name in ("none", "NFC"):
        of = renderer("qwen2_vl", name, False)
        assert text in of.render(ModelInput(text, None, "target", ""))
    # Where signs are folded, the tokenizer would have done the same.
    of = renderer("qwen2_vl", "NFKC, lowercase", True)
    found = of.render(ModelInput(text, None, "target", ""))
    normalize = of.tokenizer.backend_tokenizer.normalizer.normalize_str
    assert normalize(text) in normalize(found)


def test_added_words_stay_words():
    processor = AutoProcessor.from_pretrained(build_family("qwen2_vl", mkdtemp()))
    processor.tokenizer.add_tokens(["hello", "  ", "\n\n", "don't"])
    assert special_tokens(processor) == registered_tokens(processor)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tokenizer_with_nothing_new_keeps_its_template_to_the_byte(family: str):
    processor = AutoProcessor.from_pretrained(build_family(family, mkdtemp()))
    original = processor.chat_template
    prepare_processor(processor, ModelConfig(id=family), "right", images_first=True)
    has_role = family != "llava_onevision"
    first = wrap_template(original, registered_tokens(processor), has_role, images_first=True)
    assert processor.chat_template == first
    assert look_alikes(processor.tokenizer) == ()


def test_a_template_is_known_by_what_it_was_before_more_was_escaped():
    of = renderer("qwen2_vl", "NFKC", True)
    processor = of.processor
    template = processor.chat_template
    assert "<think>" in template
    found = template_hash(processor)
    # As an earlier version wrote it into a folder.
    processor.chat_template = wrap_template(
        template, registered_tokens(processor), True, images_first=True
    )
    assert "<think>" not in processor.chat_template
    assert template_hash(processor) == found == preprocessing_of(processor)["template"]
    prepare_processor(processor, ModelConfig(id="x"), "right", images_first=True)
    assert processor.chat_template == template


def test_more_tokens_than_an_expression_takes():
    tokens = [f"<unused{number}>" for number in range(3000)]
    processor = AutoProcessor.from_pretrained(build_family("qwen2_vl", mkdtemp()))
    wrapped = wrap_template(processor.chat_template, tokens, True)
    text = "a <unused7> <unused2999> it's"
    messages = [{"role": "user", "content": [{"type": "text", "text": text}]}]
    rendered = processor.apply_chat_template(messages, chat_template=wrapped)
    assert escape_special_tokens(text, tokens) == "a < unused7> < unused2999> it's"
    assert escape_special_tokens(text, tokens) in rendered


@pytest.mark.parametrize("token", [*MARKS, "<|im_start|>", "<image>", "<row_2_col_1>", "[INST]", "</s>", "<end_of_utterance>", "<|vision_start|>", "<sop>"])  # fmt: skip
def test_a_server_of_others_is_told_plain_text(token: str):
    for text in (token, fullwidth(token), "\u200b".join(token), token.upper()):
        plain = as_plain_text(f"a {text} b")
        assert plain == f"a {text[0]} {text[1:]} b"


@example("a < b > c [1] <b>bold</b> 1 <2 |x| <- -> <3 [sic] [a] x<y>z")
@given(st.text(alphabet="ab <>[]|12", max_size=12))
def test_a_server_of_others_is_told_ordinary_text_as_it_is(text: str):
    if not any(mark in text for mark in ("<|", "|>")):
        assert as_plain_text(text) == text
