"""What is said to an OpenAI-compatible server about a pair, and what its reply means.

One token is asked for, with the log-probabilities of the answer tokens. vLLM returns exactly these
(`logprob_token_ids`); of other servers the 20 most probable tokens are asked for, and the
spellings of the answers among them are added up.
"""

from __future__ import annotations

import base64
import json
import math
import re
import unicodedata
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from unime.core.replies import finite
from unime.judge.engine import ImageBytes, JudgeInput, Request
from unime.models.prompts import JudgePrompt

TOP = 20
"""How many log-probabilities every server gives."""

LOOSE = 0.01
"""A score that the unseen spellings could move by more is no score."""

MOST_TOKENS = 100_000_000
"""A call that bills more prompt tokens than any model takes is not believed."""

SLACK = 0.05
"""How far probabilities in half precision may add up to more than 1."""

_NAMES = (
    r"image|video|audio|img|bos|eos|pad|unk|mask|s|cls|sep|sop|eop|think|thinking|tools|turn|eot|eod|"
    r"tool_calls?|tool_response|tool_result|im_start|im_end|img_context|image_soft_token|image_\d+|"
    r"fake_token_around_image|global-img|end_of_utterance|row_\d+_col_\d+|(?:begin|end)_of_sentence|"
    r"(?:start|end)_of_(?:turn|image|text|video|audio)|"
    r"(?:vision|video|audio|img|image)_(?:start|end|pad|token)"
)
_IN_BRACKETS = r"INST|SYS|IMG\w*|[GS]?MASK|CLS|SEP|PAD|UNK|BOS|EOS|THINK|SYSTEM_PROMPT|TOOL_\w+|AVAILABLE_TOOLS"
# What opens a turn or an image slot in one family or another. The template of `judge serve` knows
# its model's own tokens; this stands before servers that this project did not start, whose
# tokenizers may fold what looks alike and drop what is invisible: see `_folded`.
_SPECIAL = re.compile(
    rf"<\|[^\s|<>]{{1,40}}\|?>|<[^\s|<>]{{1,40}}\|>|</?(?:{_NAMES})>|\[/?(?:{_IN_BRACKETS})\]",
    re.IGNORECASE,
)


class ReplyError(Exception):
    """A reply that holds no judgement, and why."""


class AnswerTokens(NamedTuple):
    """The ids of all single tokens that spell an answer."""

    yes: frozenset[int]
    no: frozenset[int]


class Masses(NamedTuple):
    """Probabilities of the next token being a yes, or a no."""

    yes: float
    no: float


def spellings(answers: Iterable[str]) -> set[str]:
    """Return every way to write the answers: each case, with and without a leading space."""
    words = {form for a in answers for form in (a, a.lower(), a.upper(), a.capitalize())}
    return words | {f" {word}" for word in words}


def as_plain_text(text: str) -> str:
    """Make special tokens ordinary text, as our chat templates do: a space behind the first sign."""
    folded, places = _folded(text)
    broken = list(text)
    for match in _SPECIAL.finditer(folded):
        broken[places[match.start()]] += " "
    return "".join(broken)


def _folded(text: str) -> tuple[str, list[int]]:
    """Return a text in compatible signs without invisible ones, and where each came from."""
    if text.isascii():
        return text, list(range(len(text)))
    signs, places = [], []
    for place, sign in enumerate(text):
        for folded in unicodedata.normalize("NFKC", sign):
            if unicodedata.category(folded) not in ("Cf", "Mn", "Cc") or folded.isspace():
                signs.append(folded)
                places.append(place)
    return "".join(signs), places


class Bodies:
    """Builds request bodies; what requests share is built once."""

    def __init__(self, prompt: JudgePrompt, model: str, tokens: AnswerTokens | None) -> None:
        self._prompt = prompt
        self._urls = DataUrls()
        options: dict[str, Any] = {"max_tokens": 1, "temperature": 0, "logprobs": True}
        if tokens is None:
            options["top_logprobs"] = TOP
        else:
            options["logprob_token_ids"] = sorted(tokens.yes | tokens.no)
            options["return_tokens_as_token_ids"] = True
        self._start = f'{{"model":{json.dumps(model)},{json.dumps(options)[1:-1]},"messages":['

    def of(self, request: Request) -> bytes:
        """Return the body of a chat completion for a pair.

        Raises:
            ImageError: when an image cannot be used.
        """
        query, candidate = request.query, request.candidate
        rendered = self._prompt.render(
            as_plain_text(request.instruction),
            (as_plain_text(query.text), query.image is not None),
            (as_plain_text(candidate.text), candidate.image is not None),
        )
        parts = [*self._parts(rendered.query, query), *self._parts(rendered.candidate, candidate)]
        system = ""
        if rendered.system:
            system = f'{{"role":"system","content":{json.dumps(rendered.system)}}},'
        user = f'{{"role":"user","content":[{",".join(parts)}]}}'
        return f"{self._start}{system}{user}]}}".encode()

    def _parts(self, parts: Iterable[Mapping[str, str]], content: JudgeInput) -> Iterable[str]:
        for part in parts:
            if part["type"] == "image":
                assert content.picture is not None, content.id.hex()
                # A data URL needs no escaping.
                url = self._urls.get(content.id, content.picture)
                yield f'{{"type":"image_url","image_url":{{"url":"{url}"}}}}'
            else:
                yield json.dumps(part)


def read_masses(reply: Any, prompt: JudgePrompt, tokens: AnswerTokens | None) -> Masses:
    """Return the probabilities of yes and no in a server's reply.

    Raises:
        ReplyError: when it holds none.
    """
    try:
        listed = reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        pairs = [(entry["token"], entry["logprob"]) for entry in listed]
    except (KeyError, IndexError, TypeError):
        raise ReplyError("the reply has no log-probabilities") from None
    found: dict[str, float] = {}
    twice = set()
    for token, logprob in pairs:
        try:
            value = finite(logprob)
        except ValueError:
            value = math.inf
        if not isinstance(token, str) or value > 1e-3:
            raise ReplyError("the reply's log-probabilities are none")
        if found.setdefault(token, value) != value:
            twice.add(token)  # fragments of characters may look alike; answers may not
    if not found:
        raise ReplyError("the reply's log-probabilities are none")
    yes, no = (
        (spellings(prompt.yes), spellings(prompt.no))
        if tokens is None
        else ({f"token_id:{number}" for number in ids} for ids in tokens)
    )
    if twice & (yes | no):
        raise ReplyError("the reply gives one answer two log-probabilities")
    masses = _sum_words(found, yes, no) if tokens is None else _sum_ids(found, yes, no)
    if masses.yes + masses.no > 1 + SLACK:
        raise ReplyError(f"the answers' probabilities add up to {masses.yes + masses.no:.3g}")
    return masses


def read_usage(reply: Any) -> tuple[int, int]:
    """Return the prompt tokens that a reply bills, and how many of them were cached.

    Raises:
        ReplyError: when it bills, but no such numbers.
    """
    try:
        usage = reply.get("usage") or {}
        details = usage.get("prompt_tokens_details") or {}
        counts = [
            finite(part.get(name) or 0)
            for part, name in ((usage, "prompt_tokens"), (details, "cached_tokens"))
        ]
    except (AttributeError, ValueError):
        counts = [-1.0]
    if not all(0 <= count <= MOST_TOKENS for count in counts):
        raise ReplyError("the reply's usage is no count of tokens")
    return int(counts[0]), int(counts[1])


def _sum_ids(found: Mapping[str, float], yes: set[str], no: set[str]) -> Masses:
    try:
        return Masses(*(sum(math.exp(found[word]) for word in words) for words in (yes, no)))
    except KeyError as error:
        raise ReplyError(f"the reply lacks the log-probability of {error.args[0]}") from None


def _sum_words(found: Mapping[str, float], yes: set[str], no: set[str]) -> Masses:
    masses = Masses(
        *(sum(math.exp(v) for word, v in found.items() if word in words) for words in (yes, no))
    )
    # Each unseen spelling is at most as probable as the last one seen.
    unseen = len((yes | no) - set(found)) * math.exp(min(found.values()))
    if unseen > LOOSE * (masses.yes + masses.no):
        raise ReplyError(
            f"the {len(found)} most probable tokens leave the answer open; the server needs "
            "logprob_token_ids (vLLM) for this judge"
        )
    return masses


class DataUrls:
    """Pictures as data URLs, each distinct one read once while it stays among the recent ones."""

    def __init__(self, capacity: int = 256_000_000) -> None:
        self._capacity = capacity
        self._kept: OrderedDict[bytes, str] = OrderedDict()
        self._size = 0

    def get(self, key: bytes, read: Callable[[], ImageBytes]) -> str:
        """Return the data URL of a picture; `read` is called when it is not at hand."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        picture = read()
        url = f"data:{picture.media_type};base64,{base64.b64encode(picture.data).decode()}"
        self._kept[key] = url
        self._size += len(url)
        while self._size > self._capacity and len(self._kept) > 1:
            self._size -= len(self._kept.popitem(last=False)[1])
        return url
