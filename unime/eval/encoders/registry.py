"""Models under evaluation: one protocol, one module for each kind.

To add a kind: a module with a config class and `load`, a field of `ModelEntry`, one line in
`ENCODERS`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np
from pydantic import Field, PositiveInt, model_validator

from unime.core.config import Section
from unime.core.contents import fingerprint
from unime.core.errors import RecipeError
from unime.eval.encoders.checkpoint import CheckpointConfig, load_checkpoint
from unime.eval.encoders.embedding_server import EndpointConfig, load_endpoint
from unime.eval.encoders.open_clip import OpenClipConfig, load_open_clip
from unime.eval.encoders.precomputed import PrecomputedConfig, load_precomputed
from unime.eval.encoders.sentence_model import SentenceTransformersConfig, load_sentence_model
from unime.eval.encoders.trained import TrainedConfig, load_trained
from unime.eval.two_stage import RerankerChoice
from unime.models.model_config import ModelConfig

if TYPE_CHECKING:
    from unime.models.inputs import ModelInput

Precision = Literal["float32", "int8", "binary"]


@runtime_checkable
class Encoder(Protocol):
    """What a loaded model offers: `unime.models.Embedder`, or anything that encodes alike."""

    def encode(
        self, inputs: Sequence[ModelInput], batch_size: int = 64, label: str = "encoding"
    ) -> np.ndarray:
        """Return L2-normalised embeddings `(inputs, dim)`."""
        ...


class Sweep(Section):
    """Further rows of the same model under other settings, one setting changed at a time."""

    dims: list[PositiveInt] = Field(default=[])
    """Matryoshka: the first so many numbers of each embedding, normalised again."""
    precision: list[Precision] = Field(default=[])
    max_pixels: list[PositiveInt] = Field(default=[])
    """Resolution; each is encoded anew, other preprocessing than training's allowed."""


class ModelEntry(Section):
    """A model under evaluation; one of the kinds is given."""

    name: str
    """How it is called in tables."""
    model: TrainedConfig | None = None
    """A vision-language model, trained here or not: a folder or a Hub id."""
    checkpoint: CheckpointConfig | None = None
    """A checkpoint of a training that runs or was stopped, adapters and all."""
    sentence_transformers: SentenceTransformersConfig | None = None
    """Any sentence-transformers model, ours or not: a folder or a Hub id."""
    open_clip: OpenClipConfig | None = None
    """A CLIP-like model of open_clip."""
    endpoint: EndpointConfig | None = None
    """A server with an OpenAI-like embeddings endpoint, such as vLLM's pooling runner."""
    embeddings: PrecomputedConfig | None = None
    """Embeddings from elsewhere."""
    reranker: RerankerChoice | None = None
    """Orders the first candidates of each query anew."""
    metadata: dict[str, str | int | float] = Field(default={})
    """What a leaderboard asks for: model_backbone, model_size, url, ..."""
    dims: int | None = Field(default=None, gt=0)
    precision: Precision = "float32"
    sweep: Sweep = Sweep()

    @model_validator(mode="after")
    def _one_kind(self) -> ModelEntry:
        given = [kind for kind in ENCODERS if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(
                f"model '{self.name}' needs just one of {', '.join(ENCODERS)}, got "
                f"{' and '.join(given) or 'none'}"
            )
        return self

    @property
    def kind(self) -> str:
        """Which of the kinds it is."""
        return next(kind for kind in ENCODERS if getattr(self, kind) is not None)

    @property
    def source(self) -> str | None:
        """The folder or Hub id its weights come from, where there is one."""
        config = getattr(self, self.kind)
        return getattr(config, "id", None)

    @property
    def key(self) -> str:
        """What its embeddings depend on beside their inputs: kind, settings, weights, prompts."""
        config = getattr(self, self.kind)
        facts: dict[str, Any] = {"kind": self.kind, "config": config.model_dump(mode="json")}
        if self.source is not None:
            facts["weights"] = fingerprint(Path(self.source))
        if isinstance(config, ModelConfig):
            from unime.models.prompts import load_prompt

            facts["prompt"] = load_prompt(config.prompt).hash
        text = json.dumps(facts, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:24]

    def load(self, device: str | None = None) -> Encoder:
        """Load it.

        Raises:
            ModelError: when it cannot be loaded, or was trained with other preprocessing.
        """
        return ENCODERS[self.kind](getattr(self, self.kind), device)


ENCODERS: dict[str, Any] = {
    "model": load_trained,
    "checkpoint": load_checkpoint,
    "sentence_transformers": load_sentence_model,
    "open_clip": load_open_clip,
    "endpoint": load_endpoint,
    "embeddings": load_precomputed,
}


def expand(entries: Sequence[ModelEntry]) -> list[ModelEntry]:
    """Return the entries, each followed by those its sweep makes of it."""
    return [variant for entry in entries for variant in _variants(entry)]


def _variants(entry: ModelEntry) -> list[ModelEntry]:
    plain = entry.model_copy(update={"sweep": Sweep()})
    found = [plain]
    for dims in entry.sweep.dims:
        found.append(plain.model_copy(update={"name": f"{entry.name}, {dims} dims", "dims": dims}))
    for precision in entry.sweep.precision:
        changes = {"name": f"{entry.name}, {precision}", "precision": precision}
        found.append(plain.model_copy(update=changes))
    for pixels in entry.sweep.max_pixels:
        if entry.model is None:
            raise RecipeError(f"model '{entry.name}': a resolution sweep needs the kind `model`")
        changed = entry.model.model_copy(
            update={
                "max_pixels": pixels,
                "min_pixels": min(entry.model.min_pixels, pixels),
                "allow_other_preprocessing": True,
            }
        )
        changes = {"name": f"{entry.name}, {pixels} pixels", "model": changed}
        found.append(plain.model_copy(update=changes))
    return found
