"""What a family's processor needs before it can serve an embedder or a judge.

Everything set here is written with the processor when it is saved, so that any library that loads
the folder prepares inputs in the same way.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from unime.core.console import log
from unime.core.errors import ModelError
from unime.models.look_alikes import look_alikes, normalize
from unime.models.model_config import ModelConfig
from unime.models.template import escaped_text, unwrap_template, wrap_template

_PROBE = "unimeprobe"
_MARK = re.compile(r"(?:[<\[{(|\uff1c\uff5c].+|.+[>\])}|\uff1e\uff5c])", re.DOTALL)
"""An added token that is no word: it begins or ends with a bracket or a bar."""
_NAMES = re.compile(r"token|tag|placeholder", re.IGNORECASE)
"""How processors call the attributes that hold their placeholders."""
_WRITTEN = re.compile(r"<[|/]?[A-Za-z][\w|/-]{0,60}>|\[/?[A-Z_]{2,20}\]")
"""Marks in a template that need not be tokens."""


_lock = threading.RLock()


@contextmanager
def tokenizing() -> Iterator[None]:
    """Call a tokenizer, or a processor around it, while no other thread does.

    A fast tokenizer keeps padding and truncation between calls: a batch that the loader's thread
    prepares would set them for a text that the main thread evaluates, which then has padding in it.
    """
    with _lock:
        yield


def _new_lock() -> None:
    """Replace the lock in a forked process: the thread that may have held it is not there."""
    global _lock  # noqa: PLW0603
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_lock)


def prepare_processor(
    processor: Any, config: ModelConfig, padding_side: str, *, images_first: bool
) -> None:
    """Set padding side, pixel limits and the wrapped chat template, in place.

    Args:
        processor: what AutoProcessor loaded.
        config: the model's recipe section.
        padding_side: "right" for embedders, "left" for judges and rerankers.
        images_first: see `wrap_template`.

    Raises:
        ModelError: when the model has no image processor or no chat template.
    """
    if getattr(processor, "image_processor", None) is None:
        raise ModelError(f"{config.id} has no image processor; expected a vision-language model")
    processor.tokenizer.padding_side = padding_side
    # What a tokenizer was built with is what it saves, whatever its attributes say now.
    processor.tokenizer.init_kwargs["padding_side"] = padding_side
    limit_pixels(processor.image_processor, config)
    original = unwrap_template(chat_template_of(processor, config.id))
    wrapped = wrap_template(
        original,
        special_tokens(processor, original),
        _keeps_system_text(processor, original, config.id),
        images_first=images_first,
        look_alikes=look_alikes(processor.tokenizer),
    )
    # vLLM asks the tokenizer for the template, transformers and sentence-transformers the processor.
    processor.chat_template = processor.tokenizer.chat_template = wrapped


def chat_template_of(processor: Any, name: str) -> str:
    """Return the processor's chat template, else its tokenizer's."""
    template = processor.chat_template or processor.tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if not template:
        raise ModelError(
            f"{name} has no chat template; choose an instruction-tuned checkpoint, or put a "
            "chat_template.jinja into its folder"
        )
    return template


def special_tokens(processor: Any, template: str | None = None) -> list[str]:
    """Return everything that would open a turn, a media slot or the like inside a text.

    That is: the tokenizer's special tokens; its other added tokens that are written as marks
    (`<think>`, `[gMASK]`), while added words stay words; the placeholders that the processor
    knows; the marks that the family's template writes (`[INST]`); and all of these as the
    tokenizer's normalizer spells them.

    Args:
        processor: of a model.
        template: the family's; the processor's own by default.
    """
    found = {*registered_tokens(processor)}
    added = processor.tokenizer.added_tokens_decoder.values()
    found |= {token.content for token in added if _MARK.fullmatch(token.content)}
    for owner in (processor, processor.tokenizer):
        for name, value in vars(owner).items():
            if _NAMES.search(name) and isinstance(value, str) and _MARK.fullmatch(value):
                found.add(value)
    text = unwrap_template(template or processor.chat_template or "")
    found |= set(_WRITTEN.findall(text))
    normalized = {token.content for token in added if token.normalized}
    found |= {normalize(processor.tokenizer, token) for token in found & normalized}
    return sorted(token for token in found if token)


def registered_tokens(processor: Any) -> list[str]:
    """Return the tokens that tokenizer and processor call special.

    The first version of the prelude escaped these alone; they still identify a template.
    """
    tokenizer = processor.tokenizer
    tokens = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    tokens |= set(tokenizer.all_special_tokens)
    for name in ("image_token", "video_token", "audio_token", "fake_image_token", "boi_token"):
        token = getattr(processor, name, None)
        if isinstance(token, str):
            tokens.add(token)
    return sorted(tokens)


def template_hash(processor: Any) -> str:
    """Return what identifies a wrapped template: its hash with the first version's escapes.

    Further escapes change nothing but texts that spell a control token; a model that was trained
    or a score that was made before them is no other one.
    """
    escaped = escaped_text(special_tokens(processor), look_alikes(processor.tokenizer))
    template = processor.chat_template.replace(escaped, escaped_text(registered_tokens(processor)))
    return hashlib.sha256(template.encode()).hexdigest()


def limit_pixels(image_processor: Any, config: ModelConfig) -> None:
    """Apply `min_pixels` and `max_pixels` in the way the family knows, in place.

    Families with free resolution take both. Families that cut images into square tiles keep the
    grids within `max_pixels`, at least one tile; `min_pixels` means nothing to them.
    """
    if config.min_pixels > config.max_pixels:
        raise ModelError(f"min_pixels {config.min_pixels} is above max_pixels {config.max_pixels}")
    tile = getattr(image_processor, "max_image_size", None)
    if getattr(image_processor, "image_grid_pinpoints", None):
        grids = sorted(image_processor.image_grid_pinpoints, key=lambda grid: grid[0] * grid[1])
        fitting = [list(grid) for grid in grids if grid[0] * grid[1] <= config.max_pixels]
        image_processor.image_grid_pinpoints = fitting or [list(grids[0])]
    elif tile and getattr(image_processor, "do_image_splitting", None) is not None:
        edge = int(dict(tile)["longest_edge"])
        # These families also enlarge small images: never above what the checkpoint asks for.
        largest = min(math.isqrt(config.max_pixels), int(image_processor.size["longest_edge"]))
        image_processor.size = {"longest_edge": max(1, largest // edge) * edge}
    elif hasattr(image_processor, "merge_size"):
        size = {"shortest_edge": config.min_pixels, "longest_edge": config.max_pixels}
        image_processor.size = size
        return
    else:
        log(f"{config.id}: this family's image size is fixed, max_pixels has no effect")
    if config.min_pixels != ModelConfig.model_fields["min_pixels"].default:
        log(f"{config.id}: min_pixels has no effect on this family")


def follow_grids(model_config: Any, processor: Any) -> None:
    """Tell the model which grids its images are cut into, in place: it unpads by the same list."""
    grids = getattr(processor.image_processor, "image_grid_pinpoints", None)
    if grids and hasattr(model_config, "image_grid_pinpoints"):
        model_config.image_grid_pinpoints = [list(grid) for grid in grids]


def preprocessing_of(processor: Any) -> dict[str, Any]:
    """Return what decides how inputs become tensors, as plain values."""
    image = json.loads(processor.image_processor.to_json_string())
    ignored = ("image_processor_type", "processor_class", "backend", "return_tensors", "device")
    return {
        "image": {key: value for key, value in sorted(image.items()) if key not in ignored},
        "template": template_hash(processor),
        "padding_side": processor.tokenizer.padding_side,
        "tokenizer": _hash_tokenizer(processor.tokenizer),
    }


def _hash_tokenizer(tokenizer: Any) -> str:
    values = json.loads(tokenizer.backend_tokenizer.to_str())
    # The last call leaves its padding and truncation behind; they are no part of the model.
    values["padding"] = values["truncation"] = None
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _keeps_system_text(processor: Any, template: str, name: str) -> bool:
    """Tell whether the family's template renders a system message exactly once."""
    from jinja2 import TemplateError

    user = {"role": "user", "content": [{"type": "text", "text": "hello"}]}
    system = {"role": "system", "content": [{"type": "text", "text": _PROBE}]}
    try:
        processor.apply_chat_template([user], chat_template=template)
    except TemplateError as error:
        raise ModelError(f"the chat template of {name} cannot be rendered: {error}") from None
    try:
        rendered = processor.apply_chat_template([system, user], chat_template=template)
    except TemplateError:
        # Some families refuse the role: their system text goes into the user turn.
        return False
    return rendered.count(_PROBE) == 1
