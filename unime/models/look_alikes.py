"""What a tokenizer's normalizer turns into the signs that special tokens are written with.

A tokenizer that normalizes a text before it looks for its added tokens finds `<|im_end|>` in
fullwidth letters, in capitals, or with invisible signs in between. Which single signs lead there is
asked of the normalizer itself, for all of Unicode.
"""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

_BESIDE = "q"
"""Stands on both sides of a sign: normalizers do special things at the ends of a text."""
_NO_LETTERS = ("Cn", "Co", "Cs")
"""Categories of code points that mean nothing: unassigned, private, surrogates."""


def normalize(tokenizer: Any, text: str) -> str:
    """Return a text as the tokenizer's normalizer leaves it inside another text."""
    normalizer = _normalizer(tokenizer)
    if normalizer is None:
        return text
    return _inside(normalizer, text)


def look_alikes(tokenizer: Any) -> tuple[tuple[str, str], ...]:
    """Return each sign that becomes a sign of a special token, or nothing, and what it becomes.

    Empty for most tokenizers: they look for their tokens before they normalize a text.
    """
    normalizer = _normalizer(tokenizer)
    tokens = [t.content for t in tokenizer.added_tokens_decoder.values() if t.normalized]
    if normalizer is None or not tokens:
        return ()
    signs = frozenset("".join(_inside(normalizer, token) for token in tokens)) - {" "}
    from tokenizers import Tokenizer, models

    alone = Tokenizer(models.BPE())
    alone.normalizer = normalizer
    return _found(alone.to_str(), signs)


@lru_cache(maxsize=8)
def _found(backend: str, signs: frozenset[str]) -> tuple[tuple[str, str], ...]:
    """Search all of Unicode, once for each normalizer.

    Args:
        backend: a tokenizer of nothing but the normalizer, as JSON.
        signs: which special tokens are written with.
    """
    from tokenizers import Tokenizer

    normalizer = Tokenizer.from_str(backend).normalizer
    pairs = [(sign, _inside(normalizer, sign)) for sign in _signs()]
    patterns = _patterns(json.loads(backend)["normalizer"])
    pairs += [(text, _inside(normalizer, text)) for text in patterns]
    leading = [(one, put) for one, put in pairs if one != put and (not put or signs & set(put))]
    # Longer ones first: a part of them may be one, too.
    return tuple(sorted(leading, key=lambda pair: (-len(pair[0]), pair[0])))


def _signs() -> Iterator[str]:
    for number in range(sys.maxunicode + 1):
        # Ideographs and Hangul syllables become no sign of a token.
        if 0x3400 <= number < 0xA000 or 0xAC00 <= number < 0xD7B0 or 0x17000 <= number < 0x18D00:
            continue
        if 0x20000 <= number < 0xE0000:
            continue
        sign = chr(number)
        if sign != " " and unicodedata.category(sign) not in _NO_LETTERS:
            yield sign


def _patterns(values: Any) -> Iterator[str]:
    """Yield the texts that a normalizer replaces as a whole."""
    if isinstance(values, list):
        for value in values:
            yield from _patterns(value)
    elif isinstance(values, dict):
        pattern = values.get("pattern")
        if values.get("type") == "Replace" and isinstance(pattern, dict):
            yield from (text for text in [pattern.get("String")] if text and len(text) > 1)
        yield from _patterns(list(values.values()))


def _inside(normalizer: Any, text: str) -> str:
    found = normalizer.normalize_str(f"{_BESIDE}{text}{_BESIDE}")
    _, first, rest = found.partition(_BESIDE)
    inner, last, _ = rest.rpartition(_BESIDE)
    return inner if first and last else text


def _normalizer(tokenizer: Any) -> Any:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return None if backend is None else backend.normalizer
