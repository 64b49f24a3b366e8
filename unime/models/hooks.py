"""Which inner workings of transformers a model lets us use: found out by trying, not by version.

Judging, reranking and training save work in ways that transformers does not promise: the vision
tower's output is handed to the model in place of pixels, positions are numbered outside it, keys and
values of a common beginning serve many continuations. A version may accept such an argument and
ignore it. So each is tried once a model, on one small prompt, against the model as anyone calls it;
what does not give the same is not used, and one line says what that costs.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unime.core.console import log
from unime.models.image_blocks import image_token_id
from unime.models.vision_input import (
    FeatureLayout,
    TowerOutput,
    VisionInput,
    handed_over,
    tower_output,
)

TEXT = ("input_ids", "attention_mask", "mm_token_type_ids")
"""What a processor returns beside the vision tower's inputs."""
WORDS = "what is to be seen on this picture here, and what is not"


class Hooks(NamedTuple):
    """What works with one model."""

    layout: FeatureLayout | None
    """How it takes the vision tower's output in place of pixels; None where it does not."""
    cache: str | None
    """The argument that takes keys and values; None where they cannot be shared."""


PLAIN = Hooks(None, None)
"""A model that is only called as anyone calls it."""


def hooks_of(backbone: Any, processor: Any) -> Hooks:
    """Return what works with a model; tried at the first call, with weights that are whole.

    Args:
        backbone: the model without its head, in evaluation mode. Its `get_image_features` becomes a
            `VisionInput`, if it is none yet.
        processor: with the wrapped chat template.
    """
    known = backbone.__dict__.get("unime_hooks")
    if known is None:
        VisionInput.of(backbone, processor.image_processor)
        known = backbone.unime_hooks = _tried(backbone, processor)
    return known


def hidden_states(
    backbone: Any,
    hooks: Hooks,
    output: TowerOutput | None,
    cache: Any | None,
    inputs: Mapping[str, Tensor],
) -> Float[Tensor, "batch length dim"]:
    """Return a model's last hidden states.

    Args:
        backbone: the model without its head.
        hooks: what works with it.
        output: of the vision tower, for all image tokens in their order.
        cache: keys and values of what comes before; the model appends to it.
        inputs: tokens, mask and positions.
    """
    extra: dict[str, Any] = {"use_cache": cache is not None}
    if cache is not None:
        assert hooks.cache is not None, "keys and values are shared with a model that takes none"
        extra[hooks.cache] = cache
    if output is None:
        return backbone(**inputs, **extra).last_hidden_state
    assert hooks.layout is not None, "features are handed to a model that takes none"
    with handed_over(hooks.layout.arranged(output)):
        # The model only passes them on to its `get_image_features`, which is ours.
        extra["pixel_values"] = output.features.new_empty(0)
        return backbone(**inputs, **extra).last_hidden_state


def new_cache(config: Any) -> Any:
    """Return an empty store of keys and values."""
    from transformers import DynamicCache

    return DynamicCache(config=config)


def select_rows(cache: Any, rows: Int[Tensor, " batch"]) -> None:
    """Give every row of a batch the keys and values of one of a cache's rows.

    The cache's own `batch_select_indices` indexes: its backward pass adds up with atomics, in another
    order in every run as soon as two threads share the work, and trainings would differ in their bits.

    Args:
        cache: is changed.
        rows: of the cache, one for each row of the batch.
    """
    for layer in cache.layers:
        if layer.get_seq_length() > 0:
            layer.keys, layer.values = _rows_of(layer.keys, rows), _rows_of(layer.values, rows)


def _rows_of(
    states: Float[Tensor, "rows heads length dim"], rows: Int[Tensor, " batch"]
) -> Float[Tensor, "batch heads length dim"]:
    if len(states) == 1:
        return states.expand(len(rows), -1, -1, -1)
    return states.index_select(0, rows)


def position_ids(
    backbone: Any,
    ids: Int[Tensor, "batch length"],
    mask: Int[Tensor, "batch length"],
    is_image: Int[Tensor, "batch length"] | None,
    grids: Int[Tensor, "pictures axes"] | None,
) -> Int[Tensor, "*axes batch length"]:
    """Return the positions of whole prompts, padded on the right, as the model would number them.

    Args:
        backbone: the model without its head.
        ids: tokens.
        mask: 1 at tokens that are no padding.
        is_image: 1 at image tokens; only where positions depend on images (Qwen).
        grids: of all images in their order, likewise.
    """
    get_rope_index = getattr(backbone, "get_rope_index", None)
    if get_rope_index is None:
        return torch.arange(ids.shape[1], device=ids.device).expand(ids.shape)
    return get_rope_index(
        input_ids=ids, mm_token_type_ids=is_image, image_grid_thw=grids, attention_mask=mask
    )[0]


class Trial(NamedTuple):
    """One small prompt with an image, and what the model makes of it."""

    inputs: dict[str, Tensor]
    """Tokens, mask, and positions as we number them."""
    pixels: dict[str, Tensor]
    picture: slice
    """From its first image token to behind its last."""
    stock: Float[Tensor, "1 length dim"]
    """Hidden states of the model as anyone calls it."""
    positions: Tensor | None
    """As it numbers them itself, where it does not leave that to its language model."""


@torch.no_grad()
def _tried(backbone: Any, processor: Any) -> Hooks:
    try:
        trial = _trial(backbone, processor)
        layout = _try_features(backbone, trial)
    except Exception as error:
        _say(
            backbone,
            f"does not take the vision tower's output in place of pixels ({named(error)}): every "
            "prompt pays for its own pictures and its own beginning",
        )
        return PLAIN
    try:
        hooks = Hooks(layout, cache_argument(backbone))
        _try_sharing(backbone, trial, hooks)
    except Exception as error:
        _say(
            backbone,
            f"cannot share keys and values ({named(error)}): what prompts begin with in common is "
            "computed for each of them",
        )
        return Hooks(layout, None)
    return hooks


def _trial(backbone: Any, processor: Any) -> Trial:
    from PIL import Image

    picture = Image.linear_gradient("L").resize((224, 56)).convert("RGB")
    content = [{"type": "text", "text": WORDS}, {"type": "image"}, {"type": "text", "text": WORDS}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
    batch = processor(
        text=[text], images=[[picture]], add_special_tokens=False, return_tensors="pt"
    ).to(backbone.device)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    kinds, grids = batch.get("mm_token_type_ids"), batch.get("image_grid_thw")
    positions = position_ids(backbone, ids, mask, kinds, grids)
    stock, own = _called(backbone, batch)
    shown = (ids[0] == image_token_id(processor)).nonzero().flatten().tolist()
    return Trial(
        {"input_ids": ids, "attention_mask": mask, "position_ids": positions},
        {name: value for name, value in batch.items() if name not in TEXT},
        slice(shown[0], shown[-1] + 1),
        stock,
        own,
    )


def _called(backbone: Any, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
    """Return the model's hidden states, and the positions it hands to its language model."""
    handed: list[Tensor] = []

    def note(_: Any, __: Any, arguments: dict[str, Any]) -> None:
        if arguments.get("position_ids") is not None:
            handed.append(arguments["position_ids"])

    watched = [
        child.register_forward_pre_hook(note, with_kwargs=True) for child in backbone.children()
    ]
    try:
        hidden = backbone(**batch, use_cache=False).last_hidden_state
    finally:
        for handle in watched:
            handle.remove()
    return hidden, handed[0] if handed else None


def _try_features(backbone: Any, trial: Trial) -> FeatureLayout:
    ours = trial.inputs["position_ids"]
    # Hidden states would tell too little: a small image has few positions of its own.
    if trial.positions is not None and not torch.equal(trial.positions, ours):
        raise ValueError("the model numbers positions in another way than its get_rope_index")
    output, layout = tower_output(backbone, trial.pixels)
    hidden = hidden_states(backbone, Hooks(layout, None), output, None, trial.inputs)
    agree(hidden[:, trial.picture.start :], trial.stock[:, trial.picture.start :])
    return layout


def _try_sharing(backbone: Any, trial: Trial, hooks: Hooks) -> None:
    """Let two prompts share a beginning, which holds the image."""
    ids, mask, positions = trial.inputs.values()
    length = max(trial.picture.stop, ids.shape[1] - 4)
    cache = new_cache(backbone.config)
    start = {
        "input_ids": ids[:, :length],
        "attention_mask": mask[:, :length],
        "position_ids": positions[..., :length],
    }
    hidden_states(backbone, hooks, tower_output(backbone, trial.pixels)[0], cache, start)
    select_rows(cache, torch.zeros(2, dtype=torch.long, device=ids.device))
    rest = {
        "input_ids": ids[:, length:].repeat(2, 1),
        "attention_mask": mask.repeat(2, 1),
        "position_ids": torch.cat([positions[..., length:]] * 2, dim=-2),
    }
    agree(hidden_states(backbone, hooks, None, cache, rest), trial.stock[:, length:])


def cache_argument(backbone: Any) -> str:
    """Return the name of the argument that takes keys and values: it was renamed in 5.2x."""
    # The forward of every version swallows the other name without a word.
    names = inspect.signature(backbone.forward).parameters
    return "cache" if "cache" in names else "past_key_values"


def agree(ours: Tensor, stock: Tensor) -> None:
    """Raise where outputs differ by more than rounding; an ignored image makes it about 1."""
    error = (ours.float() - stock.float()).norm(dim=-1) / stock.float().norm(dim=-1)
    if not float(error.mean()) < (1e-3 if stock.dtype == torch.float32 else 0.05):
        raise ValueError(f"the outputs differ by {float(error.mean()):.2g} of their length")


def named(error: Exception) -> str:
    """Return what a log line says of an error."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"


def _say(backbone: Any, what: str) -> None:
    import transformers

    log(
        f"{backbone.config.name_or_path or type(backbone).__name__}: transformers "
        f"{transformers.__version__} {what}; the results are the same"
    )
