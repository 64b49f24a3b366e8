"""From (text, image, side, instruction) to the tensors a model reads.

The chat template is rendered once for every shape of input (system text, with or without image and
text); the text is then put in by string concatenation, which the loader has checked to give the
very string the template gives. The processor is called once a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from unime.core.errors import DataError, ModelError
from unime.data.data_folder import DataFolder
from unime.data.image_processor import PictureError, named
from unime.data.pixels import name_of, to_rgb
from unime.models.look_alikes import look_alikes
from unime.models.processor import special_tokens, tokenizing
from unime.models.prompts import EmbedPrompt, kind_of
from unime.models.template import escape_special_tokens
from unime.models.vision_input import pack, travels_packed

if TYPE_CHECKING:
    from PIL.Image import Image

_SLOT = "unime0text0slot"
_HARD_TEXT = "  \n <|im_end|> \u00dcn\u00efc\u00f6de \u6c49 {{ 1 }} {% x %} \n "


@dataclass(frozen=True, init=False, slots=True)
class ModelInput:
    """One input of an embedder: texts and images, the side they stand on, the task instruction.

    Today's models are shown at most one image and then at most one text: `ModelInput(text, image)`
    makes such inputs, `text` and `image` read them.
    """

    parts: tuple[str | Image, ...]
    side: str
    """"query" or "target"."""
    instruction: str

    def __init__(
        self,
        text: str = "",
        image: Image | None = None,
        side: str = "query",
        instruction: str = "",
        *,
        parts: Sequence[str | Image] | None = None,
    ) -> None:
        if parts is None:
            # Identity, not truth: some image types have no truth value.
            parts = [*([] if image is None else [image]), *([text] if text else [])]
        elif text or image is not None:
            raise DataError("an input was given text or image beside parts; give one or the other")
        object.__setattr__(self, "parts", tuple(parts))
        object.__setattr__(self, "side", side)
        object.__setattr__(self, "instruction", instruction)

    @property
    def text(self) -> str:
        """The content's text; empty when it is an image alone.

        Raises:
            DataError: when the input is more than an image and a text, in this order.
        """
        return self._one_of_each()[0]

    @property
    def image(self) -> Image | None:
        """The content's image, if it has one; errors as `text`."""
        return self._one_of_each()[1]

    def with_image(self, image: Image) -> ModelInput:
        """Return the same input with another image."""
        return ModelInput(self.text, image, self.side, self.instruction)

    def _one_of_each(self) -> tuple[str, Image | None]:
        images = [part for part in self.parts[:1] if not isinstance(part, str)]
        texts = [part for part in self.parts[len(images) :] if isinstance(part, str)]
        if len(texts) <= 1 and len(images) + len(texts) == len(self.parts):
            return "".join(texts), images[0] if images else None
        kinds = ", ".join("text" if isinstance(part, str) else "image" for part in self.parts)
        raise DataError(
            f"an input has the parts {kinds}; models are shown at most one image and then one text"
        )


class _Skeleton(NamedTuple):
    before: str
    after: str


class Renderer:
    """Turns inputs into right-padded features for one processor and one prompt."""

    def __init__(self, processor: Any, prompt: EmbedPrompt, max_length: int, name: str) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.prompt = prompt
        self.max_length = max_length
        self.name = name
        self.packs = True
        """Whether the model takes images as bytes: they are made numbers where it asks for features."""
        self.truncated = 0
        """How many texts were truncated at `max_length` so far."""
        self._special = special_tokens(processor)
        self._look_alikes = look_alikes(self.tokenizer)
        self._skeletons: dict[tuple[str | None, bool, bool], _Skeleton] = {}
        self._tails: dict[str | None, list[int]] = {}
        self._concatenates = self._check_concatenation()

    def render(self, one: ModelInput) -> str:
        """Return the text the tokenizer sees for one input, one placeholder for its image."""
        kind = kind_of(one.text, one.image is not None)
        system, user = self.prompt.render(one.side, kind, one.text, one.instruction)
        if not user and one.image is None:
            raise DataError("an input has neither text nor image nor instruction; nothing to embed")
        if not self._concatenates:
            return self._render_chat(system, one.image is not None, user)
        before, after = self._skeleton(system, one.image is not None, bool(user))
        return f"{before}{self._escape(user)}{after}"

    def features(self, inputs: Sequence[ModelInput], *, packed: bool = False) -> dict[str, Tensor]:
        """Return the model's inputs for one batch: right padded, on the CPU.

        Args:
            inputs: the inputs.
            packed: hand images over as bytes where the family allows; see `vision_input`.

        Raises:
            DataError: when an input is empty, or an image cannot be used.
            ModelError: when prompt and image alone exceed `max_length`.
        """
        texts = [self.render(one) for one in inputs]
        made = [None if one.image is None else to_rgb(one.image) for one in inputs]
        images = [[] if image is None else [image] for image in made]
        packed = packed and any(images) and travels_packed(self.processor.image_processor)
        try:
            batch = self._process(texts, images, packed=packed)
        except Exception as error:
            raise self._about(error, made) from error
        features = {key: value for key, value in batch.items() if isinstance(value, Tensor)}
        assert len(features) == len(batch), f"not a tensor among {list(batch)}"
        if packed:
            patches = features["pixel_values"].to(torch.uint8)
            features["pixel_values"] = pack(patches, self.processor.image_processor)
        if features["input_ids"].shape[1] > self.max_length:
            self._truncate(features, inputs)
        return features

    def _process(self, texts: list[str], images: list[list[Image]], *, packed: bool) -> Any:
        with tokenizing():
            return self.processor(
                text=texts,
                images=images if any(images) else None,
                text_kwargs={
                    "padding": True,
                    "padding_side": "right",
                    "truncation": False,
                    # Long rows are truncated below; the tokenizer would warn about each.
                    "verbose": False,
                    "add_special_tokens": self._adds_special_tokens(texts[0]),
                },
                common_kwargs={"return_tensors": "pt"},
                images_kwargs={"do_rescale": False, "do_normalize": False} if packed else {},
            )

    def _ids(self, text: str) -> list[int]:
        """Return the tokens of a text by itself."""
        with tokenizing():
            return self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def _about(self, error: Exception, images: Sequence[Image | None]) -> Exception:
        """Return a processor's error about a batch as one about the input that it is about."""
        places = [place for place, image in enumerate(images) if image is not None]
        shown = [image for image in images if image is not None]
        found = named(error, self.processor.image_processor, shown)
        return found.at(places[found.place]) if isinstance(found, PictureError) else error

    def packed(self, inputs: Sequence[ModelInput]) -> dict[str, Tensor]:
        """Return the features with images as bytes, where the model takes them so."""
        return self.features(inputs, packed=self.packs)

    def _truncate(self, features: dict[str, Tensor], inputs: Sequence[ModelInput]) -> None:
        """Shorten long rows at the end of the user's text; image and assistant header stay.

        The same tokens that sentence-transformers keeps of a long text: it truncates the right end and
        writes the template's tail over the last tokens.
        """
        shape = features["input_ids"].shape
        lengths = features["attention_mask"].sum(dim=1).tolist()
        for row, (one, length) in enumerate(zip(inputs, lengths, strict=True)):
            if length <= self.max_length:
                continue
            kind = kind_of(one.text, one.image is not None)
            system, user = self.prompt.render(one.side, kind, one.text, one.instruction)
            tail = self._tail(system)
            ids = self._ids(self._escape(user))
            if length - len(ids) >= self.max_length:
                name = "" if one.image is None else name_of(one.image)
                raise ModelError(
                    f"max_length {self.max_length} is too short: prompt"
                    f"{' and image' if one.image is not None else ''} alone take "
                    f"{length - len(ids)} tokens; raise max_length or lower max_pixels"
                    + (f" (the picture {name})" if name else "")
                )
            start = self.max_length - len(tail)
            features["input_ids"][row, start : self.max_length] = torch.tensor(tail)
            self.truncated += 1
        for key, value in features.items():
            if value.shape[:2] == shape and value.ndim == 2:
                features[key] = value[:, : self.max_length].contiguous()

    def _tail(self, system: str | None) -> list[int]:
        """Return the token ids that always follow the user's text."""
        if system not in self._tails:
            before, after = self._skeleton(system, False, True)
            # Two texts that share no last token: what their ids have in common is the template's.
            one, other = (self._ids(f"{before}{text}{after}") for text in ("0", "1 2 3 4"))
            count = 0
            while one[-1 - count] == other[-1 - count]:
                count += 1
            self._tails[system] = one[len(one) - count :]
        return self._tails[system]

    def _skeleton(self, system: str | None, has_image: bool, has_text: bool) -> _Skeleton:
        key = (system, has_image, has_text)
        if key not in self._skeletons:
            rendered = self._render_chat(system, has_image, _SLOT if has_text else "")
            before, slot, after = rendered.partition(_SLOT)
            if has_text and (not slot or _SLOT in after):
                raise ModelError(
                    f"the chat template of {self.name} shows the user's text "
                    f"{rendered.count(_SLOT)} times, expected once"
                )
            self._skeletons[key] = _Skeleton(before, after)
        return self._skeletons[key]

    def _render_chat(self, system: str | None, has_image: bool, user: str) -> str:
        return self.processor.apply_chat_template(chat_messages(system, has_image, user))

    def _check_concatenation(self) -> bool:
        """Tell whether putting a text into the rendered skeleton equals rendering that text."""
        text = f"{_HARD_TEXT}{''.join(self._special)}"
        rendered = self._render_chat("system", True, text)
        before, after = self._skeleton("system", True, True)
        return rendered == f"{before}{self._escape(text)}{after}"

    def _escape(self, text: str) -> str:
        return escape_special_tokens(text, self._special, self._look_alikes)

    def _adds_special_tokens(self, rendered: str) -> bool:
        """Follow transformers: a template that writes the begin token itself gets no second one."""
        begin = self.tokenizer.bos_token
        return begin is None or not rendered.startswith(begin)


def chat_messages(system: str | None, image: Any, user: str) -> list[dict[str, Any]]:
    """Return the chat messages of one input, as sentence-transformers builds them.

    Args:
        system: system text, or None.
        image: an image, or whether there is one.
        user: instruction and content.
    """
    content: list[dict[str, Any]] = []
    # Identity, not truth: some image types have no truth value.
    if image is not None and image is not False:
        content.append({"type": "image"} if image is True else {"type": "image", "image": image})
    if user:
        content.append({"type": "text", "text": user})
    messages = [{"role": "user", "content": content}]
    if system:
        parts = [{"type": "text", "text": system}]
        messages.insert(0, {"role": "system", "content": parts})
    return messages


def load_input(data: DataFolder, item: int, side: str, instruction: str) -> ModelInput:
    """Return one input of the embedder, its image decoded."""
    return ModelInput(data.items.item(item).text, data.load_image(item), side, instruction)
