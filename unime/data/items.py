"""The records that pass between the rooms, and the three identities that are never mixed up.

`content_id` names what an item is: for masks, known positives, duplicates and gold answers.
`encode_id` names one encoding of it: for encoding once and for embedding caches.
`pair_key` names one judgement: for scoring a pair once.

The same image under two instructions is two encodings and one content.
"""

from __future__ import annotations

import hashlib
import unicodedata
from dataclasses import dataclass

from unime.core.errors import DataError

ID_BYTES = 16
"""All identities are 128-bit hashes."""


@dataclass(frozen=True, slots=True)
class TextPart:
    """A text."""

    text: str


@dataclass(frozen=True, slots=True)
class ImagePart:
    """An image."""

    location: str
    """Relative to the data root: "a/b.png", "f.parquet#row", "f.tar#member"."""


@dataclass(frozen=True, slots=True)
class Item:
    """A sequence of texts and images.

    Today's tables and models take at most one image and then at most one text: `Item.of` makes such
    items, `text` and `image` read them. The task instruction is a field of the pair, not part of a text.
    """

    parts: tuple[TextPart | ImagePart, ...] = ()

    @classmethod
    def of(cls, text: str = "", image: str | None = None) -> Item:
        """Return a text, an image, or an image with a text; neither is an empty item."""
        if image is None:
            return cls((TextPart(text),)) if text else cls()
        return cls((ImagePart(image), TextPart(text)) if text else (ImagePart(image),))

    @property
    def text(self) -> str:
        """The one text; empty when there is none.

        Raises:
            DataError: when the item is more than an image and a text, in this order.
        """
        parts = self.parts
        # Readers ask for it in every row: the usual case without a match.
        if len(parts) == 1 and type(parts[0]) is TextPart:
            return parts[0].text
        return self._one_of_each()[0]

    @property
    def image(self) -> str | None:
        """Where the one image is; None when there is none. Errors as `text`."""
        parts = self.parts
        if len(parts) == 1 and type(parts[0]) is TextPart:
            return None
        return self._one_of_each()[1]

    def _one_of_each(self) -> tuple[str, str | None]:
        match self.parts:
            case ():
                return "", None
            case (TextPart(text),):
                return text, None
            case (ImagePart(location),):
                return "", location
            case (ImagePart(location), TextPart(text)):
                return text, location
        kinds = ", ".join("text" if isinstance(p, TextPart) else "image" for p in self.parts)
        raise DataError(
            f"an item has the parts {kinds}; the tables and models hold at most one image and then one "
            "text: put the texts into one behind the image, and the images into one"
        )


@dataclass(frozen=True, slots=True)
class Pair:
    """One training row as a reader yields it."""

    query: Item
    positives: tuple[Item, ...]
    task: str
    query_instruction: str = ""
    target_instruction: str = ""
    negatives: tuple[Item, ...] = ()
    """The user's own negatives, if any."""
    scores: tuple[float, ...] = ()
    """The user's own judge scores, if any: the first positive's, then one per negative."""


def content_id(text: str, image_bytes: bytes | None) -> bytes:
    """Return the identity of a content: hash of its NFC text and its image file's bytes."""
    return content_id_from_hash(text, None if image_bytes is None else hash_image(image_bytes))


def content_id_from_hash(text: str, image_hash: bytes | None) -> bytes:
    """Return `content_id` for an image whose bytes were hashed before (see `hash_image`)."""
    return _digest(b"content", unicodedata.normalize("NFC", text).encode(), image_hash)


def hash_image(image_bytes: bytes) -> bytes:
    """Return the 128-bit hash of an image file's bytes."""
    return hashlib.blake2b(image_bytes, digest_size=ID_BYTES).digest()


def encode_id(content: bytes, side: str, rendered: str, fingerprint: str) -> bytes:
    """Return the identity of one encoding of a content.

    Args:
        content: the item's `content_id`.
        side: "query" or "target".
        rendered: the rendered instruction and prompt hash.
        fingerprint: the preprocessing fingerprint (resolution, template, padding, pooling, dtype).
    """
    return _digest(b"encode", content, side.encode(), rendered.encode(), fingerprint.encode())


def pair_key(
    query_content: bytes, instruction: str, candidate_content: bytes, judge_fingerprint: str
) -> bytes:
    """Return the identity of one judgement: query and task instruction, candidate, judge."""
    return _digest(
        b"pair", query_content, instruction.encode(), candidate_content, judge_fingerprint.encode()
    )


def _digest(*parts: bytes | None) -> bytes:
    """Hash parts with their lengths, so that no two lists of parts collide by concatenation."""
    hasher = hashlib.blake2b(digest_size=ID_BYTES)
    for part in parts:
        if part is None:
            hasher.update(b"\xff" * 8)
        else:
            hasher.update(len(part).to_bytes(8, "little"))
            hasher.update(part)
    return hasher.digest()
