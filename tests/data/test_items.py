"""Identities: equal for equal things, different for anything else, and never for one another."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unime.core.errors import DataError
from unime.data.items import (
    ID_BYTES,
    ImagePart,
    Item,
    TextPart,
    content_id,
    content_id_from_hash,
    encode_id,
    hash_image,
    pair_key,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
IMAGE = st.none() | st.binary(max_size=20)
ID = st.binary(min_size=ID_BYTES, max_size=ID_BYTES)
WORD = st.text("ab|", max_size=4)


@given(TEXT, IMAGE, TEXT, IMAGE)
def test_contents_are_equal_just_when_nfc_text_and_bytes_are(
    text: str, image: bytes | None, other_text: str, other_image: bytes | None
) -> None:
    same = unicodedata.normalize("NFC", text) == unicodedata.normalize("NFC", other_text)
    equal = content_id(text, image) == content_id(other_text, other_image)
    assert equal == (same and image == other_image)


@given(TEXT, IMAGE)
def test_a_content_is_its_hashed_image_and_any_normal_form(text: str, image: bytes | None) -> None:
    found = content_id(text, image)
    assert len(found) == ID_BYTES
    assert found == content_id_from_hash(text, None if image is None else hash_image(image))
    for form in ("NFC", "NFD"):
        assert found == content_id(unicodedata.normalize(form, text), image)


def test_no_image_an_empty_one_and_text_are_three_things() -> None:
    contents = {
        content_id("", None), content_id("", b""), content_id("a", None), content_id("", b"a"),
        content_id("a", b""), content_id("A", None), content_id("a ", None),
    }  # fmt: skip
    assert len(contents) == 7


def test_composed_and_decomposed_letters_are_one_text() -> None:
    assert content_id("caf\u00e9", None) == content_id("cafe\u0301", None)


@given(st.lists(st.tuples(ID, WORD, WORD, WORD), min_size=2, max_size=2, unique=True))
def test_encodings_differ_in_any_part_and_parts_do_not_run_together(
    two: list[tuple[bytes, str, str, str]],
) -> None:
    first, second = (encode_id(*parts) for parts in two)
    assert first != second


@given(st.lists(st.tuples(ID, WORD, ID, WORD), min_size=2, max_size=2, unique=True))
def test_judgements_differ_in_any_part(two: list[tuple[bytes, str, bytes, str]]) -> None:
    first, second = (pair_key(*parts) for parts in two)
    assert first != second


@given(ID, ID, WORD, WORD)
def test_the_three_identities_never_meet(one: bytes, two: bytes, a: str, b: str) -> None:
    assert len({encode_id(one, a, b, ""), pair_key(one, a, two, b), content_id(a, one)}) == 3
    if one != two:
        assert pair_key(one, a, two, b) != pair_key(two, a, one, b)


def test_identities_stay_what_they_were() -> None:
    # Caches and judged rows on users' disks are named by these: a change here orphans them all.
    assert content_id("a cat", b"bytes").hex() == "b7f3174520995a6265213b80f66941c4"
    assert encode_id(b"c" * 16, "query", "r", "f").hex() == "5cee4f8cee73c3041114c090171c967b"
    assert pair_key(b"q" * 16, "i", b"c" * 16, "j").hex() == "a8cf70942b9e749bc0962fd6d8651dfb"


def test_an_item_is_a_sequence_of_parts() -> None:
    text, image = TextPart("a cat"), ImagePart("a.png")
    assert Item.of("a cat", "a.png") == Item((image, text))
    assert Item.of("", "a.png").parts == (image,) and Item.of("a cat").parts == (text,)
    assert Item.of() == Item() and Item().text == "" and Item().image is None
    for item in (Item(), Item((text,)), Item((image,)), Item((image, text))):
        assert Item.of(item.text, item.image) == item


@pytest.mark.parametrize(
    ("parts", "kinds"),
    [
        ((ImagePart("a.png"), ImagePart("b.png")), "image, image"),
        ((TextPart("a"), TextPart("b")), "text, text"),
        ((TextPart("a"), ImagePart("a.png")), "text, image"),
        ((ImagePart("a.png"), TextPart("a"), TextPart("b")), "image, text, text"),
    ],
)
def test_what_the_tables_cannot_hold_is_refused_in_one_sentence(parts, kinds: str) -> None:
    for read in (lambda item: item.text, lambda item: item.image):
        with pytest.raises(
            DataError, match=f"an item has the parts {kinds}; the tables and models"
        ):
            read(Item(parts))
