"""A chat template that turns (query, document) messages into a reranker's prompt.

sentence-transformers' CrossEncoder and vLLM's `/score` hand a pair over as two messages with the
roles `query` and `document`; a system message before them is the task instruction. With this in
the exported template, both ask exactly what was trained, without this package.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import Any

from unime.models.prompts import KINDS, JudgePrompt
from unime.models.template import first_line

_PRELUDE = """\
{%- set pair = namespace(instruction='', query=[], document=[]) -%}
{%- for message in messages -%}
  {%- set side = namespace(images=[], text='') -%}
  {%- if message['content'] is string -%}
    {%- set side.text = message['content'] -%}
    {#- vLLM puts an image's placeholder before the text of a string -#}
    {%- for placeholder in %PLACEHOLDERS% -%}
      {%- if not side.images and side.text.startswith(placeholder) -%}
        {%- set side.images = [{'type': 'image'}] -%}
        {%- set side.text = side.text[placeholder | length:].lstrip() -%}
      {%- endif -%}
    {%- endfor -%}
  {%- else -%}
    {%- for part in message['content'] or [] -%}
      {%- if part is string -%}
        {%- set side.text = side.text + part -%}
      {%- elif part['type'] == 'text' -%}
        {%- set side.text = side.text + part['text'] -%}
      {%- else -%}
        {%- set side.images = side.images + [part] -%}
      {%- endif -%}
    {%- endfor -%}
  {%- endif -%}
  {%- if message['role'] == 'system' -%}
    {%- set pair.instruction = side.text -%}
  {%- elif message['role'] == 'query' -%}
    {%- set task = %TASK% if pair.instruction else '' -%}
    {%- set words = %QUERY% -%}
    {%- set joined = task + ('\\n' if task and words else '') + words -%}
    {%- set pair.query = side.images + [{'type': 'text', 'text': joined}] -%}
  {%- elif message['role'] == 'document' -%}
    {%- set words = %CANDIDATE% -%}
    {%- set pair.document = side.images + [{'type': 'text', 'text': '\\n' + words}] -%}
  {%- endif -%}
{%- endfor -%}
{%- if pair.query and pair.document -%}
  {%- set asked = pair.query + pair.document + [{'type': 'text', 'text': %QUESTION%}] -%}
  {%- set messages = %SYSTEM% + [{'role': 'user', 'content': asked}] -%}
{%- endif -%}
"""


def pair_template(wrapped: str, prompt: JudgePrompt, processor: Any) -> str:
    """Return a wrapped template (see `unime.models.template`) that also renders pairs.

    What it makes of any other conversation stays as it is.

    Args:
        wrapped: the reranker's template.
        prompt: asks about one candidate.
        processor: names the image placeholders.
    """
    levels = prompt.levels
    system = _side(levels["system"], "query")
    message = {"role": "system", "content": [{"type": "text", "text": system}]}
    values = {
        "PLACEHOLDERS": _literal(_placeholders(processor)),
        "TASK": _expression(_side(levels["task"], "query"), instruction="pair.instruction"),
        "QUERY": _by_kind(levels, "query", "pair.instruction"),
        "CANDIDATE": _by_kind(levels, "candidate", "''"),
        "QUESTION": _literal("\n" + levels["question"]),
        "SYSTEM": _literal([message] if system else []),
    }
    prelude = _PRELUDE
    for name, value in values.items():
        prelude = prelude.replace(f"%{name}%", value)
    head, rest = first_line(wrapped)
    return f"{head}{prelude}{rest}"


def _by_kind(levels: Mapping[str, Any], side: str, instruction: str) -> str:
    text, image, both = (
        _expression(_side(levels["kind"][kind], side), instruction=instruction) for kind in KINDS
    )
    return f"(({both} if side.text else {image}) if side.images else {text})"


def _expression(template: str, instruction: str) -> str:
    """Write a prompt text with `{name}` placeholders as a Jinja expression."""
    names = {"text": "side.text", "instruction": instruction}
    parts = []
    for literal, field, _, _ in string.Formatter().parse(template):
        parts += [_literal(literal)] if literal else []
        parts += [names[field]] if field is not None else []
    return "(" + " + ".join(parts or ["''"]) + ")"


def _literal(value: Any) -> str:
    """Write a value of strings, lists and dicts as a Jinja literal."""
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
        return f"'{escaped}'"
    if isinstance(value, list):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return "{" + ", ".join(f"{_literal(k)}: {_literal(v)}" for k, v in value.items()) + "}"


def _placeholders(processor: Any) -> list[str]:
    """Return how vLLM writes an image into a text, longest first."""
    token = processor.image_token
    return [f"<|vision_start|>{token}<|vision_end|>", token]


def _side(entry: Any, side: str) -> str:
    return entry if isinstance(entry, str) else entry[side]
