"""What the trainer asks of a model: an embedder offers it, and a reranker."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from unime.models.model_config import ModelConfig
from unime.models.shared_prefix import SharesPrefix
from unime.models.vision_input import VisionInput


@runtime_checkable
class Trainable(Protocol):
    """A model whose module maps features to outputs under the name "sentence_embedding"."""

    @classmethod
    def load(
        cls, config: Any, device: str | None = None, prompt: Any = None, *, check: bool = True
    ) -> Trainable:
        """Load a folder or a Hub id; `prompt` in place of the one that `config` names."""
        ...

    @property
    def prompt(self) -> Any:
        """How it is asked."""
        ...

    @property
    def module(self) -> nn.Module:
        """What is trained, as far as its parameters require gradients."""
        ...

    @property
    def network(self) -> SharesPrefix:
        """What the trainer calls: `module`, or what gives the same result at less cost."""
        ...

    @property
    def vision(self) -> VisionInput:
        """Where pictures enter the backbone."""
        ...

    @property
    def config(self) -> ModelConfig:
        """What it was loaded by."""
        ...

    @property
    def backbone(self) -> Any:
        """The transformers model without its head, which is adapted."""
        ...

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Everything beside the weights that decides an output."""
        ...

    def check_features(self) -> dict[str, Tensor]:
        """Return the inputs of the self-check; see `unime.models.self_check`."""
        ...

    def save(self, folder: Path | str) -> None:
        """Write the whole model, adapters merged."""
        ...
