"""A vision-language model as an embedder: stock sentence-transformers modules, our inputs.

The embedding is the L2-normalised `last_hidden_state` (after the final norm, never
`hidden_states[-1]`) at the last real token, right behind the assistant header.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from unime.core.console import log, progress
from unime.core.errors import DataError
from unime.core.files import read_json
from unime.data.image_processor import PictureError
from unime.data.pixels import pixels_hash, to_rgb
from unime.data.user_input import UserInput, read_input
from unime.models import self_check
from unime.models.backbones import load_modules, load_plain
from unime.models.inputs import ModelInput, Renderer
from unime.models.model_config import ModelConfig
from unime.models.model_folder import ModelSettings, embedder_config
from unime.models.modes import evaluating
from unime.models.processor import preprocessing_of
from unime.models.prompts import EmbedPrompt, load_prompt
from unime.models.saving import save_backbone
from unime.models.shared_prefix import SharedPrefix
from unime.models.vision_input import VisionInput

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

WINDOW = 64
"""Batches that are sorted by size together: bounds memory when inputs are loaded lazily."""


class Embedder:
    """Encodes texts, images and both.

    Example:
        >>> embedder = Embedder("runs/mini/8_export")
        >>> queries = embedder.encode(["a red circle"], instruction="Find the image")
        >>> images = embedder.encode([Path("a.png"), {"image": "b.png", "text": "a circle"}], side="target")
        >>> embedder.similarity(queries, images).shape
        (1, 2)
    """

    def __init__(
        self,
        model: str | PathLike[str],
        device: str | None = None,
        **settings: Unpack[ModelSettings],
    ) -> None:
        """Load an export, a trained model, or any open vision-language model.

        Args:
            model: a folder, the output of a training or an export, or a Hub id.
            device: "cpu", "cuda:0", ...; by default a GPU if there is one.
            settings: prompt, dtype, pixels, length, in place of what the model's folder says, or of
                our defaults for a model that says nothing.

        Raises:
            ModelError: when it is no vision-language model, cannot be loaded, or fails its
                self-check.
            RecipeError: for a setting that there is not.
        """
        config, prompt = embedder_config(model, settings)
        self._load(config, device, prompt)

    @classmethod
    def of(cls, module: SentenceTransformer, config: ModelConfig, prompt: EmbedPrompt) -> Embedder:
        """Return an embedder around modules that are there already."""
        embedder = cls.__new__(cls)
        embedder._hold(module, config, prompt)
        return embedder

    @classmethod
    def load(
        cls,
        config: ModelConfig,
        device: str | None = None,
        prompt: EmbedPrompt | None = None,
        *,
        plain: bool = False,
        check: bool = True,
    ) -> Embedder:
        """Load a folder or a Hub id.

        Args:
            config: model, prompt, dtype, pixel limits and length.
            device: "cpu", "cuda:0", ...; by default a GPU if there is one.
            prompt: in place of the prompt file that `config` names.
            plain: stand on transformers alone (see `unime.models.backbones`).
            check: run the self-check (`unime.models.self_check`).

        Raises:
            ModelError: when it is no vision-language model, cannot be loaded, or fails its
                self-check.
            PromptError: when there is no such prompt.
        """
        embedder = cls.__new__(cls)
        embedder._load(config, device, prompt, plain=plain, check=check)
        return embedder

    def _load(
        self,
        config: ModelConfig,
        device: str | None,
        prompt: EmbedPrompt | None,
        *,
        plain: bool = False,
        check: bool = True,
    ) -> None:
        prompt = prompt or load_prompt(config.prompt)
        module = load_plain(config) if plain else load_modules(config)
        module.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        module.eval()
        self._hold(module, config, prompt)
        _compare_with_training(self)
        if check and self_check.has_own_weights(module):
            with self_check.answering(config.id), torch.inference_mode():
                outputs = self.forward(self.check_features())
            self_check.refuse(self_check.blindness(outputs, self.backbone.dtype), config.id)

    def _hold(self, module: SentenceTransformer, config: ModelConfig, prompt: EmbedPrompt) -> None:
        self.module = module
        self.vision = VisionInput.of(self.backbone, self.processor.image_processor)
        self.network = SharedPrefix(module)
        """What is called, and trained: `module` with the prompt of a batch computed once."""
        self.config = config
        self.prompt = prompt
        self._renderer = Renderer(self.processor, self.prompt, config.max_length, config.id)
        self._renderer.packs = self.network.hooks.layout is not None

    @property
    def backbone(self) -> Any:
        """The transformers model without language-model head."""
        return self.module[0].model

    @property
    def processor(self) -> Any:
        """The family's processor with the wrapped chat template."""
        return self.module[0].processor

    @property
    def tokenizer(self) -> Any:
        """The processor's tokenizer."""
        return self.processor.tokenizer

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return int(self.module.get_embedding_dimension() or 0)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.module.parameters()).device

    @property
    def renderer(self) -> Renderer:
        """Prepares inputs, without the weights: what a loader's worker processes are sent."""
        return self._renderer

    def render(self, one: ModelInput) -> str:
        """Return the text the tokenizer sees for one input, one placeholder for its image."""
        return self._renderer.render(one)

    def features(self, inputs: Sequence[ModelInput], *, packed: bool = False) -> dict[str, Tensor]:
        """Return the model's inputs for one batch: right padded, on the CPU.

        Args:
            inputs: the inputs.
            packed: hand images over as bytes, for this embedder's own `network` and `forward`.

        Raises:
            DataError: when an input is empty.
            ModelError: when prompt and image alone exceed `max_length`.
        """
        return self._renderer.packed(inputs) if packed else self._renderer.features(inputs)

    def packed_features(self, inputs: Sequence[ModelInput]) -> dict[str, Tensor]:
        """Return `features(inputs, packed=True)`."""
        return self._renderer.packed(inputs)

    def check_features(self) -> dict[str, Tensor]:
        """Return the inputs of the self-check, whatever `max_length` says, as the network takes them."""
        from PIL import Image

        renderer = Renderer(self.processor, self.prompt, sys.maxsize, self.config.id)
        inputs = self_check.probe_inputs(
            self.tokenizer, lambda text: renderer.render(ModelInput(text, Image.new("RGB", (8, 8))))
        )
        renderer.packs = self._renderer.packs
        return renderer.packed([ModelInput(text, image) for text, image in inputs])

    def is_truncated(self, one: ModelInput) -> bool:
        """Tell whether an input is too long and loses the end of its text."""
        before = self._renderer.truncated
        self.features([one])
        return self._renderer.truncated > before

    def forward(self, features: Mapping[str, Any]) -> Float[Tensor, "batch dim"]:
        """Embed one batch of features, with gradient if enabled; rows have length 1."""
        # sentence-transformers writes into the dict it gets.
        inputs = {
            key: value.to(self.device) if isinstance(value, Tensor) else value
            for key, value in features.items()
        }
        return self.network(inputs)["sentence_embedding"].float()

    def encode(
        self,
        inputs: Sequence[UserInput | ModelInput],
        batch_size: int = 64,
        label: str = "encoding",
        *,
        side: str = "query",
        instruction: str = "",
    ) -> Float[np.ndarray, "inputs dim"]:
        """Embed many inputs without gradient.

        Inputs are read in order, once, `batch_size * WINDOW` at a time, and may be loaded lazily.
        Equal inputs are encoded once; a batch holds inputs of like size.

        Args:
            inputs: texts (a string is always a text), images, Paths of image files,
                {"text": ..., "image": ...}, or `ModelInput`s, which say side and instruction themselves.
            batch_size: inputs in one forward pass, at most.
            label: what a progress line begins with.
            side: "query", or "target" for what is searched in.
            instruction: the task's, such as "Find the image that shows this".

        Returns:
            Float32, one row of length 1 for each input.

        Raises:
            DataError: for a single input instead of a list of them, or one that is no input.
        """
        # A text is a sequence of letters, and would be taken apart.
        single = isinstance(inputs, str | bytes | Mapping | ModelInput) or not hasattr(
            inputs, "__len__"
        )
        if single or batch_size < 1 or side not in ("query", "target"):
            raise DataError(
                "expected a list of inputs, a batch_size from 1 on and the side 'query' or "
                f"'target'; got a {type(inputs).__name__}, {batch_size} and {side!r}"
            )
        vectors = np.empty((len(inputs), self.dim), dtype=np.float32)
        first_row: dict[bytes, int] = {}
        duplicates: list[tuple[int, int]] = []
        batches = self._batches(
            _Inputs(inputs, side, instruction), batch_size, first_row, duplicates
        )
        before = self._renderer.truncated
        with evaluating(self.module), torch.inference_mode():
            total = -(-len(inputs) // batch_size)
            for rows, batch in progress(batches, total, label, "batch"):
                try:
                    features = self.packed_features(batch)
                except PictureError as error:
                    raise error.at(rows[error.place]) from None
                vectors[rows] = self.forward(features).cpu().numpy()
        for row, first in duplicates:
            vectors[row] = vectors[first]
        if truncated := self._renderer.truncated - before:
            log(
                f"{label}: {truncated} texts were truncated at max_length {self.config.max_length} tokens"
            )
        return vectors

    def similarity(
        self, queries: Float[np.ndarray, "queries dim"], targets: Float[np.ndarray, "targets dim"]
    ) -> Float[np.ndarray, "queries targets"]:
        """Return the cosines of embeddings, every query's with every target's, float32."""
        return np.asarray(queries, dtype=np.float32) @ np.asarray(targets, dtype=np.float32).T

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Everything beside the weights that decides an embedding."""
        return {
            **preprocessing_of(self.processor),
            "max_length": self.config.max_length,
            "pooling": "lasttoken",
            "normalize": True,
            "dtype": str(self.backbone.dtype).removeprefix("torch."),
            "prompt": self.prompt.id,
            "prompt_hash": self.prompt.hash,
        }

    @property
    def fingerprint(self) -> str:
        """A hash of `preprocessing`."""
        text = json.dumps(self.preprocessing, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def description(self) -> dict[str, Any]:
        """What a model folder says, in `unime.json`, about how its inputs are to be prepared."""
        return {
            "model": self.config.model_dump(mode="json", exclude={"id", "revision"}),
            "preprocessing": self.preprocessing,
            "fingerprint": self.fingerprint,
            "prompt": {
                "id": self.prompt.id,
                "hash": self.prompt.hash,
                "levels": dict(self.prompt.levels),
            },
        }

    def save(self, folder: Path | str) -> None:
        """Write merged weights, processor and template as a plain Hugging Face folder.

        Adapters are merged into what is written; the model itself stays as it is.
        """
        save_backbone(self.backbone, self.processor, self.config, self.description, Path(folder))

    def _batches(
        self,
        inputs: _Inputs,
        batch_size: int,
        first_row: dict[bytes, int],
        duplicates: list[tuple[int, int]],
    ) -> Iterator[tuple[list[int], list[ModelInput]]]:
        """Yield rows and inputs of one batch; note duplicates."""
        for start in range(0, len(inputs), batch_size * WINDOW):
            window: dict[int, ModelInput] = {}
            for row in range(start, min(start + batch_size * WINDOW, len(inputs))):
                one = inputs[row]
                if one.image is not None:
                    one = one.with_image(to_rgb(one.image))
                first = first_row.setdefault(_identity(one), row)
                if first == row:
                    window[row] = one
                else:
                    duplicates.append((row, first))
            rows = sorted(window, key=lambda row: _size(window[row]))
            for begin in range(0, len(rows), batch_size):
                chosen = rows[begin : begin + batch_size]
                yield chosen, [window[row] for row in chosen]


class _Inputs:
    """A user's inputs as a model's, each made when it is asked for."""

    def __init__(self, inputs: Sequence[Any], side: str, instruction: str) -> None:
        self._inputs, self._side, self._instruction = inputs, side, instruction

    def __len__(self) -> int:
        return len(self._inputs)

    def __getitem__(self, place: int) -> ModelInput:
        value = self._inputs[place]
        if isinstance(value, ModelInput):
            return value
        found = read_input(value, f"input {place}")
        return ModelInput(found.text, found.open(), self._side, self._instruction)


def _compare_with_training(embedder: Embedder) -> None:
    """Say so when a model is used with other preprocessing than it was trained with."""
    from unime.core.provenance import differences

    path = Path(embedder.config.id) / "unime.json"
    if not path.is_file():
        return
    trained = read_json(path).get("preprocessing", {})
    lines = differences(trained, json.loads(json.dumps(embedder.preprocessing)))
    if lines:
        log(f"{embedder.config.id} was trained with other preprocessing: {'; '.join(lines)}")


def _identity(one: ModelInput) -> bytes:
    """Return a hash of everything that decides an input's embedding."""
    # With lengths, so that no text can end where another field begins.
    text = "".join(f"{len(part)}:{part}" for part in (one.text, one.side, one.instruction))
    hasher = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16)
    if one.image is not None:
        hasher.update(b"\0" + pixels_hash(one.image))
    return hasher.digest()


def _size(one: ModelInput) -> tuple[int, int]:
    """Return a sort key that brings inputs of like cost together."""
    pixels = 0 if one.image is None else one.image.width * one.image.height
    return pixels, len(one.text) + len(one.instruction)
