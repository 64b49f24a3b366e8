"""The README of an exported embedder: how to call it, exactly, without this package."""

from __future__ import annotations

from string import Template

from unime.prompts import EMBED_SIDES, KINDS, EmbedPrompt

_CARD = Template("""\
---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags:
- sentence-transformers
- feature-extraction
- multimodal
$front---

# $title

A universal embedding model: texts, images and both, in one space of $dim dimensions. It was made
with unime, and needs nothing but sentence-transformers >= 6.2:

```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("$title")
queries = model.encode([{"text": "$example"}], prompt_name="query")
documents = model.encode([picture, {"image": picture, "text": "a caption"}], prompt_name="document")
scores = model.similarity(queries, documents)
```

## What to write where

`prompt_name` chooses the system text (`query` or `document`). The task instruction belongs to the
text of the input. Inputs are joined as follows; `\\n` is one newline:

| side | input | user text with an instruction | without |
|---|---|---|---|
$rows

Where the text is empty, pass the image alone. Pass texts as `{"text": ...}`: sentence-transformers
takes a bare string that looks like the address of a picture for that picture.

The embedding is the L2-normalised last hidden state behind the assistant header. The chat template
in this folder always ends in that header, and makes special tokens in texts ordinary text, so
transformers (`AutoModel`, `AutoProcessor`) and vLLM (`vllm serve FOLDER --runner pooling`, chat
messages) give the same embeddings.

## Limits

Texts are cut at $max_length tokens. A text beside an image must fit into that length together with
the image: sentence-transformers cuts the end of such an input, assistant header included.

## Provenance

Preprocessing fingerprint `$fingerprint`, prompt `$prompt`. `unime.json` holds the rendered prompts,
the preprocessing and the recipes this model came from. `unime verify FOLDER` compares this folder's
embeddings over every way of loading it.
""")


def card(title: str, dim: int, max_length: int, fingerprint: str, prompt: EmbedPrompt) -> Template:
    """Return the card, to be completed with its front matter.

    Args:
        title: the model's name.
        dim: length of an embedding.
        max_length: in tokens.
        fingerprint: of the preprocessing.
        prompt: its wording becomes the table of user texts.
    """
    example = prompt.render("query", "text", "two dogs on a beach", "Find the picture.").user
    return Template(
        _CARD.safe_substitute(
            title=title,
            dim=dim,
            max_length=max_length,
            fingerprint=fingerprint,
            prompt=prompt.id,
            example=_one_line(example),
            rows="\n".join(_rows(prompt)).replace("$", "$$"),
        )
    )


def _rows(prompt: EmbedPrompt) -> list[str]:
    rows = []
    for side, kind in ((side, kind) for side in EMBED_SIDES for kind in KINDS):
        text = "" if kind == "image" else "TEXT"
        user = prompt.render(side, kind, text, "INSTRUCTION").user
        bare = prompt.render(side, kind, text, "").user
        name = "document" if side == "target" else side
        rows.append(f"| {name} | {kind} | `{_one_line(user)}` | `{_one_line(bare)}` |")
    return rows


def _one_line(text: str) -> str:
    return text.replace("\n", "\\n")
