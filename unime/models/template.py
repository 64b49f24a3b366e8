"""One chat template for training, export and every server that reads it.

A family's own template is kept as it is, behind a prelude that

* forces the generation prompt: the embedding is read right behind the assistant header, and
  sentence-transformers and vLLM render without it unless the template insists;
* makes special tokens in text ordinary text (a space behind their first character), so that user
  text can neither open a turn nor an image slot;
* folds the system text into the first user turn where the family would lose it;
* drops empty system messages, and puts images first where `images_first` asks for it.

Because the prelude is part of the template, sentence-transformers, transformers and vLLM agree
without flags, and without this package.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from unime.core.errors import ModelError

LookAlikes = Iterable[tuple[str, str]]

_FIRST_LINE = "{#- unime chat template v1 -#}"
# The newline behind the marker belongs to it: chat templates are rendered with trim_blocks.
_LAST_LINE = "{#- the family's own template follows, unchanged #}\n"

_PRELUDE = """\
{%- set add_generation_prompt = true -%}
{%- set unime = namespace(messages=[], system='') -%}
{%- for message in messages -%}
  {%- set this = namespace(images=[], parts=[]) -%}
  {%- if message['content'] is string -%}
    {%- set content = [{'type': 'text', 'text': message['content']}] -%}
  {%- else -%}
    {%- set content = message['content'] or [] -%}
  {%- endif -%}
  {%- for part in content -%}
    {%- if part is string -%}
      {%- set part = {'type': 'text', 'text': part} -%}
    {%- endif -%}
    {%- if part['type'] == 'text' -%}
      {%- if part['text'] -%}
        %TEXT%
      {%- endif -%}
    {%- elif %IMAGES_FIRST% and part['type'] != 'text' -%}
      {%- set this.images = this.images + [part] -%}
    {%- else -%}
      {%- set this.parts = this.parts + [part] -%}
    {%- endif -%}
  {%- endfor -%}
  {%- set parts = this.images + this.parts -%}
  {%- if message['role'] == 'system' and not parts -%}
  {%- elif message['role'] == 'system' and %FOLD_SYSTEM% -%}
    {%- for part in parts -%}
      {%- set unime.system = unime.system + ('\\n' if unime.system else '') + part['text'] -%}
    {%- endfor -%}
  {%- elif message['role'] != 'assistant' and unime.system -%}
    {%- set this.parts = [] -%}
    {%- for part in parts -%}
      {%- if part['type'] == 'text' and unime.system -%}
        {%- set this.parts = this.parts + [{'type': 'text', 'text': unime.system + '\\n' + part['text']}] -%}
        {%- set unime.system = '' -%}
      {%- else -%}
        {%- set this.parts = this.parts + [part] -%}
      {%- endif -%}
    {%- endfor -%}
    {%- if unime.system -%}
      {%- set this.parts = this.parts + [{'type': 'text', 'text': unime.system}] -%}
      {%- set unime.system = '' -%}
    {%- endif -%}
    {%- set unime.messages = unime.messages + [dict(message, content=this.parts)] -%}
  {%- else -%}
    {%- set unime.messages = unime.messages + [dict(message, content=parts)] -%}
  {%- endif -%}
{%- endfor -%}
{%- set messages = unime.messages -%}
"""


_TEXT = "{%- set this.parts = this.parts + [{'type': 'text', 'text': %VALUE%}] -%}"

MOST_IN_A_CHAIN = 90
"""Replacements in one expression; Python takes 200 nested parentheses, two of each."""


def wrap_template(
    original_template: str,
    special_tokens: Iterable[str],
    has_system_role: bool,
    *,
    images_first: bool = False,
    look_alikes: LookAlikes = (),
) -> str:
    """Put the prelude before a family's chat template; a wrapped template is unwrapped first.

    Args:
        original_template: the family's Jinja template.
        special_tokens: what must never be read as a special token inside a text part.
        has_system_role: False folds the system text into the first user turn.
        images_first: put a turn's images before its texts. For embedders, whose inputs are one
            image and one text in any order; a judge's turn interleaves several images.
        look_alikes: see `escape_special_tokens`.

    Raises:
        ModelError: when a special token cannot be made ordinary text.
    """
    prelude = (
        _PRELUDE.replace("%TEXT%", escaped_text(special_tokens, look_alikes))
        .replace("%IMAGES_FIRST%", "true" if images_first else "false")
        .replace("%FOLD_SYSTEM%", "false" if has_system_role else "true")
    )
    return f"{_FIRST_LINE}\n{prelude}{_LAST_LINE}{unwrap_template(original_template)}"


def unwrap_template(template: str) -> str:
    """Return the family's own template of a wrapped one; any other template as it is."""
    if not is_wrapped(template):
        return template
    return template.partition(_LAST_LINE)[2]


def is_wrapped(template: str) -> bool:
    """Tell whether a template has the prelude."""
    return template.startswith(_FIRST_LINE)


def first_line(wrapped: str) -> tuple[str, str]:
    """Return a wrapped template's marker and the rest: more may be put between the two."""
    assert is_wrapped(wrapped), wrapped[:80]
    return f"{_FIRST_LINE}\n", wrapped.removeprefix(f"{_FIRST_LINE}\n")


def escape_special_tokens(
    text: str, special_tokens: Iterable[str], look_alikes: LookAlikes = ()
) -> str:
    """Do in Python what the prelude does to a text part.

    Args:
        text: a user's.
        special_tokens: what must not be read as a special token.
        look_alikes: what the tokenizer would turn into a sign of a special token, each with what
            it turns into; done here first, so that no token can appear behind the escapes.
    """
    for found, put in _replacements(tuple(special_tokens), tuple(look_alikes)):
        text = text.replace(found, put)
    return text


def escaped_text(special_tokens: Iterable[str], look_alikes: LookAlikes = ()) -> str:
    """Return the prelude's statement that takes a text part over, escaped."""
    pairs = _replacements(tuple(special_tokens), tuple(look_alikes))
    if len(pairs) <= MOST_IN_A_CHAIN:
        text = "part['text']" + "".join(f".replace({_quote(a)}, {_quote(b)})" for a, b in pairs)
        return _TEXT.replace("%VALUE%", text)
    listed = ", ".join(f"[{_quote(a)}, {_quote(b)}]" for a, b in pairs)
    return (
        "{%- set this.text = part['text'] -%}\n"
        f"        {{%- for pair in [{listed}] -%}}\n"
        "          {%- set this.text = this.text.replace(pair[0], pair[1]) -%}\n"
        "        {%- endfor -%}\n"
        "        " + _TEXT.replace("%VALUE%", "this.text")
    )


@lru_cache(maxsize=64)
def _replacements(
    special_tokens: tuple[str, ...], look_alikes: tuple[tuple[str, str], ...]
) -> list[tuple[str, str]]:
    """Return what is replaced by what, in order.

    Tokens are broken longest first, so that none is broken by a part of it.
    """
    tokens = sorted(set(special_tokens), key=lambda token: (-len(token), token))
    known = frozenset(tokens)
    return [*look_alikes, *((token, _broken(token, known)) for token in tokens)]


def _broken(token: str, tokens: frozenset[str]) -> str:
    """Return a token with a space in it, as early as no token is left in it."""
    for place in range(1, len(token)):
        plain = f"{token[:place]} {token[place:]}"
        ends = range(1, len(plain) + 1)
        if not any(plain[start:end] in tokens for end in ends for start in range(end)):
            return plain
    raise _inseparable(token)


def _inseparable(token: str) -> ModelError:
    return ModelError(
        f"special token {token!r} cannot be told apart from ordinary text; this tokenizer is not "
        "supported"
    )


def _quote(text: str) -> str:
    """Write a Jinja string literal."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    # Jinja changes ends of lines in its source, and nobody can read what is invisible.
    shown = "".join(sign if sign.isprintable() else _code(sign) for sign in escaped)
    return f"'{shown}'"


def _code(sign: str) -> str:
    return f"\\u{ord(sign):04x}" if ord(sign) < 1 << 16 else f"\\U{ord(sign):08x}"
