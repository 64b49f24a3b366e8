"""CLIP-like models of open_clip: the baseline every embedder is compared with.

The instruction is no input of theirs. An input of picture and text is the normalised sum of both
embeddings, as the two-tower baselines of MMEB do it (Wei et al. 2024, UniIR's score fusion).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from unime.core.config import Section
from unime.core.console import progress
from unime.core.errors import ModelError
from unime.data.pixels import to_rgb

if TYPE_CHECKING:
    from unime.models.inputs import ModelInput


class OpenClipConfig(Section):
    """Which model."""

    architecture: str
    """A name of `open_clip.list_models()`, or `hf-hub:OWNER/NAME` or `local-dir:FOLDER`."""
    pretrained: str | None = None
    """A tag of `open_clip.list_pretrained()`, or a weight file."""
    random_weights: bool = False
    """Without `pretrained`: really evaluate an untrained model."""


def load_open_clip(config: OpenClipConfig, device: str | None = None) -> OpenClipModel:
    """Load it.

    Raises:
        ModelError: when there is no such model, or weights were forgotten.
    """
    import torch

    from unime.core.loading import load_open_clip_model

    bare = not config.architecture.startswith(("hf-hub:", "local-dir:"))
    if bare and config.pretrained is None and not config.random_weights:
        raise ModelError(
            f"open_clip model {config.architecture} has no weights: name them by pretrained:, or "
            "set random_weights: true to see what an untrained model scores"
        )
    torch.manual_seed(0)
    model, preprocess, tokenizer = load_open_clip_model(config.architecture, config.pretrained)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return OpenClipModel(model.to(device).eval(), preprocess, tokenizer, device)


class OpenClipModel:
    """Two towers."""

    def __init__(self, model: Any, preprocess: Any, tokenizer: Any, device: str) -> None:
        self._model, self._preprocess = model, preprocess
        self._tokenizer, self._device = tokenizer, device

    def encode(
        self, inputs: Sequence[ModelInput], batch_size: int = 64, label: str = "encoding"
    ) -> np.ndarray:
        """Return L2-normalised embeddings `(inputs, dim)`."""
        import torch

        starts = range(0, len(inputs), batch_size)
        with torch.inference_mode():
            parts = [
                self._batch(list(inputs[start : start + batch_size]))
                for start in progress(starts, len(starts), label, "batch")
            ]
        return np.concatenate(parts)

    def _batch(self, batch: list[ModelInput]) -> np.ndarray:
        import torch
        from torch.nn.functional import normalize

        images = [row for row, encode in enumerate(batch) if encode.image is not None]
        texts = [row for row, encode in enumerate(batch) if encode.text or encode.image is None]
        total: Any = None
        for rows, tower in ((images, self._images), (texts, self._texts)):
            if rows:
                found = normalize(tower([batch[row] for row in rows]).float(), dim=-1)
                if total is None:
                    total = torch.zeros(len(batch), found.shape[1], device=self._device)
                total[rows] += found
        return normalize(total, dim=-1).cpu().numpy()

    def _images(self, batch: list[ModelInput]) -> Any:
        import torch

        pixels = torch.stack(
            [self._preprocess(to_rgb(e.image)) for e in batch if e.image is not None]
        )
        return self._model.encode_image(pixels.to(self._device))

    def _texts(self, batch: list[ModelInput]) -> Any:
        # An input of nothing but an instruction is that instruction.
        texts = [encode.text or encode.instruction for encode in batch]
        return self._model.encode_text(self._tokenizer(texts).to(self._device))
