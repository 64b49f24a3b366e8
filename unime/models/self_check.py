"""Does a model see its images and read its texts? Asked once, when it is loaded to be used.

A library may take an image under a keyword that it ignores, load a checkpoint whose tower fits nothing,
or drop weights in a warning: the scores that follow are of a blind model, and nothing fails. So one tiny
batch goes through the path that will be used: an input, the same with another image, the same with
another text, and the first once more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unime.core.errors import ModelError, UnimeError
from unime.core.processes import launched_fsdp
from unime.models.image_blocks import KeyedImage
from unime.models.next_token import NextToken
from unime.models.pair_scorer import PairSide
from unime.models.prompt_tokens import Prompt

if TYPE_CHECKING:
    from PIL.Image import Image

FACTOR = 10
"""How many times the noise another input must change the output by."""
_SIZE = (112, 28)
"""Width and height: four tokens in the Qwen families, one row of tiles where images are enlarged."""
_TEXT = "a red circle left of a blue square"
_OTHER = (
    "Nobody knew whether 17 engineers would ever sign the treaty about winter bread, or only one."
)


def probe_inputs(tokenizer: Any, render: Callable[[str], str]) -> list[tuple[str, Image]]:
    """Return texts with images: an input, another image, another text, the first input again.

    The images are of one size and the texts of one length in tokens: a model that gets their number,
    but not what they are, gives one output.

    Args:
        tokenizer: the model's.
        render: text -> the whole prompt, within which tokens are counted.
    """
    picture, other = _pictures()
    text = _as_long(lambda text: len(tokenizer(render(text), verbose=False)["input_ids"]))
    return [(_TEXT, picture), (_TEXT, other), (text, picture), (_TEXT, picture)]


def blindness(outputs: Float[Tensor, "4 dim"], dtype: torch.dtype) -> str | None:
    """Return what is wrong with a model, by its outputs for `probe_inputs`; None for nothing.

    The noise is the difference of the two outputs for one input. Where it is 0, as on most machines, the
    resolution of the arithmetic counts in its place: four units in the last place of `dtype`, and at
    most a thousandth, since a real difference may be as small as some units of bfloat16.

    Args:
        outputs: rows in the order of the inputs.
        dtype: what is computed in.
    """
    outputs = outputs.detach().double().cpu()
    if not outputs.isfinite().all():
        return "its output for a small picture and a short text is not finite"
    first, picture, text, again = outputs
    scale = float(first.norm())
    if scale == 0:
        return "its output for a small picture and a short text is 0 throughout"
    noise = max(float((again - first).norm()) / scale, min(4 * torch.finfo(dtype).eps, 1e-3))
    for what, row in (("picture", picture), ("text", text)):
        change = float((row - first).norm()) / scale
        if not change > FACTOR * noise:
            return (
                f"another {what} changes its output by {change:.1e} (relative), expected more than "
                f"{FACTOR * noise:.1e}, {FACTOR} times what two runs of one input may differ by"
            )
    return None


@contextmanager
def answering(name: str) -> Iterator[None]:
    """Turn what a library says when it cannot run the check at all into its failure.

    Raises:
        ModelError: in its place.
    """
    try:
        yield
    except (UnimeError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:200]
        raise _failure(name, f"it ends in {type(error).__name__}: {text}") from error


def refuse(problem: str | None, name: str) -> None:
    """Raise what `blindness` has found.

    Raises:
        ModelError: with the model, what was seen, the libraries' versions and what to do.
    """
    if problem is not None:
        raise _failure(name, problem)


def check_next_token(
    model: Any, processor: Any, ask: Callable[[PairSide, PairSide], Prompt], name: str
) -> None:
    """Check a generative model by the path of the judge and of `Reranker`.

    Args:
        model: with its head, in evaluation mode.
        processor: with the wrapped chat template.
        ask: renders a query and one candidate.
        name: of the model, for the message.

    Raises:
        ModelError: when it does not see images or does not read texts.
    """
    next_token = NextToken(model, processor, batch_size=4, cache_gb=0.0)
    rows: dict[int, Tensor] = {}
    with answering(name):
        prompts = [ask(*sides) for sides in probe_sides(processor.tokenizer, ask)]
        for places, logits in next_token.logits(next_token.tokenize(prompts)):
            rows |= dict(zip(places, logits, strict=True))
    outputs = torch.stack([rows[place] for place in range(len(prompts))])
    refuse(blindness(outputs, model.dtype), name)


def probe_sides(
    tokenizer: Any, ask: Callable[[PairSide, PairSide], Prompt]
) -> Iterator[tuple[PairSide, PairSide]]:
    """Yield the inputs as pairs: the text is the query, the image its candidate."""

    def render(text: str) -> str:
        return ask(PairSide(text), PairSide("", KeyedImage(b"", lambda: _pictures()[0]))).text

    for number, (text, image) in enumerate(probe_inputs(tokenizer, render)):
        # Each with a key of its own: what is compared went through the tower twice.
        picture = KeyedImage(b"self-check %d" % number, lambda image=image: image)
        yield PairSide(text), PairSide("", picture)


def has_own_weights(module: nn.Module) -> bool:
    """Tell whether this process can run a model by itself, as it was loaded.

    Not so where a launcher shares the weights out (ZeRO-3, FSDP2): the trainer asks on all processes.
    """
    return not launched_fsdp() and not any(
        parameter.is_meta or hasattr(parameter, "ds_id") for parameter in module.parameters()
    )


def _failure(name: str, problem: str) -> ModelError:
    return ModelError(
        f"{name} fails its self-check: {problem}; either the checkpoint lacks weights (see what "
        "transformers reported when it was loaded), or these libraries do not hand its inputs on: "
        f"{', '.join(_versions())}; take the whole checkpoint, or versions that unime was tested "
        "with (pip install --upgrade unime)"
    )


def _pictures() -> tuple[Image, Image]:
    from PIL import Image

    width, height = _SIZE
    warm, cold = Image.new("RGB", _SIZE, (250, 160, 30)), Image.new("RGB", _SIZE, (20, 40, 120))
    warm.paste((200, 20, 20), (0, 0, width // 2, height // 2))
    for left in range(0, width, 16):
        cold.paste((230, 250, 240), (left, 0, left + 8, height))
    return warm, cold


def _as_long(count: Callable[[str], int]) -> str:
    """Return the beginning of another text that has as many tokens as the first."""
    wanted = count(_TEXT)
    beginnings = (_OTHER[:end] for end in range(1, len(_OTHER) + 1))
    return next((text for text in beginnings if count(text) == wanted), _OTHER)


def _versions() -> Iterator[str]:
    for library in ("transformers", "torch", "sentence-transformers"):
        try:
            yield f"{library} {version(library)}"
        except PackageNotFoundError:
            yield f"no {library}"
