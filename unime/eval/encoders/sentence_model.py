"""Any sentence-transformers model: an export of ours, another embedder, a text model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field, field_validator

from unime.core.config import Section
from unime.data.pixels import to_rgb

if TYPE_CHECKING:
    from unime.models.inputs import ModelInput


class SentenceTransformersConfig(Section):
    """How to load it and how it wants its inputs."""

    id: str
    """A folder or a Hub id."""
    revision: str | None = None
    query_prompt_name: str | None = None
    """One of the model's own prompts; `query` where it has one."""
    target_prompt_name: str | None = None
    """Likewise; `document` where it has one."""
    input: str = "{instruction}\n{text}"
    """How task instruction and text become one text; a part that is empty leaves its line out."""
    trust_remote_code: bool = False
    """Always false: a model folder's own code is never run."""
    model_kwargs: dict[str, Any] = Field(default={})
    processor_kwargs: dict[str, Any] = Field(default={})

    @field_validator("trust_remote_code")
    @classmethod
    def _no_code(cls, value: bool) -> bool:
        if value:
            raise ValueError(
                "a model's own code is never run here; embed the inputs where you trust it "
                "(unime eval inputs RECIPE FOLDER) and evaluate them as precomputed"
            )
        return value


def load_sentence_model(
    config: SentenceTransformersConfig, device: str | None = None
) -> SentenceModel:
    """Load it.

    Raises:
        ModelError: when it cannot be loaded.
    """
    from unime.core.loading import load_sentence_transformer

    module = load_sentence_transformer(
        config.id,
        revision=config.revision,
        device=device,
        model_kwargs=config.model_kwargs,
        processor_kwargs=config.processor_kwargs,
    )
    return SentenceModel(module, config)


class SentenceModel:
    """Encodes texts, images and both with one prompt a side."""

    def __init__(self, module: Any, config: SentenceTransformersConfig) -> None:
        self._module = module
        self._config = config
        known = module.prompts or {}
        self._prompts = {
            "query": config.query_prompt_name or ("query" if "query" in known else None),
            "target": config.target_prompt_name or ("document" if "document" in known else None),
        }

    def encode(
        self, inputs: Sequence[ModelInput], batch_size: int = 64, label: str = "encoding"
    ) -> np.ndarray:
        """Return L2-normalised embeddings `(inputs, dim)`."""
        parts: list[np.ndarray] = []
        for start in range(0, len(inputs), batch_size):
            batch = list(inputs[start : start + batch_size])
            vectors = np.empty(0)
            for side, prompt in self._prompts.items():
                rows = [row for row, encode in enumerate(batch) if encode.side == side]
                if not rows:
                    continue
                found = self._module.encode(
                    [self._input(batch[row]) for row in rows],
                    prompt_name=prompt,
                    batch_size=batch_size,
                    normalize_embeddings=True,
                    convert_to_numpy=True,
                    show_progress_bar=False,
                )
                if not vectors.size:
                    vectors = np.empty((len(batch), found.shape[1]), dtype=np.float32)
                vectors[rows] = found
            parts.append(vectors)
        return np.concatenate(parts)

    def _input(self, encode: ModelInput) -> Any:
        lines = self._config.input.split("\n")
        values = {"instruction": encode.instruction, "text": encode.text}
        filled = [line.format(**values) for line in lines]
        text = "\n".join(line for line in filled if line)
        if encode.image is None:
            return text
        image = to_rgb(encode.image)
        return {"image": image, "text": text} if text else image
