"""An export under mteb: `mteb.evaluate(mteb_meta("runs/mini/8_export").load_model(), tasks)`.

Queries and documents get their own system texts, the task's instruction stands in front of a
query's text, pictures and texts of one row are embedded together: as in training.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ModelMeta
from mteb.types import PromptType

from unime.core import files
from unime.models.exported import exported_folder, load_exported
from unime.models.inputs import ModelInput

if TYPE_CHECKING:
    from mteb.abstasks.task_metadata import TaskMetadata
    from torch.utils.data import DataLoader


class ExportedEncoder(AbsEncoder):
    """mteb's view of an export.

    Args:
        model_name: a folder or Hub id.
        revision: of a Hub id.
        device: where the model goes.
    """

    def __init__(
        self, model_name: str, revision: str | None = None, device: str | None = None, **_: Any
    ) -> None:
        self.embedder = load_exported(model_name, device, _hub_revision(model_name, revision))
        self.model = self.embedder.module

    def encode(
        self,
        inputs: DataLoader[Any],
        *,
        task_metadata: TaskMetadata,
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        batch_size: int = 32,
        **_: Any,
    ) -> np.ndarray:
        """Embed one column of a task, float32 `(rows, dim)`."""
        del hf_split, hf_subset
        # Symmetric tasks have no sides: both of theirs are queries.
        side = "target" if prompt_type == PromptType.document else "query"
        instruction = self._instruction(task_metadata, prompt_type) if side == "query" else ""
        parts = [
            self.embedder.encode(_encodes(batch, side, instruction), batch_size) for batch in inputs
        ]
        return np.concatenate(parts)

    def _instruction(self, task_metadata: TaskMetadata, prompt_type: PromptType | None) -> str:
        prompt = task_metadata.prompt
        if isinstance(prompt, dict):
            key = prompt_type.value if prompt_type is not None else "query"
            prompt = prompt.get(key)
        return prompt or ""


def mteb_meta(model: Path | str, revision: str | None = None) -> ModelMeta:
    """Return mteb's description of an export, whose `load_model()` gives the encoder.

    Args:
        model: a folder or Hub id.
        revision: of a Hub id; a folder's is the beginning of its fingerprint.
    """
    folder = exported_folder(model, revision)
    facts = files.read_json(folder / "unime.json")
    about = facts["card"]
    # mteb wants OWNER/NAME; a folder is nobody's.
    name = about["repo"] or f"local/{about['title']}"
    return ModelMeta(
        loader=_load(folder),
        name=name,
        revision=revision or facts["fingerprint"][:12],
        release_date=None,
        languages=None,
        n_parameters=None,
        memory_usage_mb=None,
        max_tokens=facts["model"]["max_length"],
        embed_dim=about["dim"],
        license=about["license"],
        open_weights=True,
        public_training_code=None,
        public_training_data=None,
        framework=["Sentence Transformers", "PyTorch"],
        similarity_fn_name="cosine",  # type: ignore[arg-type]  # pydantic makes it one of theirs
        use_instructions=True,
        training_datasets=set(about["datasets"]) or None,
        adapted_from=about["base_model"],
        modalities=["text", "image"],
    )


def _hub_revision(model_name: str, revision: str | None) -> str | None:
    return None if Path(model_name).is_dir() else revision


def _encodes(batch: dict[str, Any], side: str, instruction: str) -> list[ModelInput]:
    images, texts = batch.get("image"), batch.get("text")
    rows = len(images if images is not None else texts or [])
    return [
        ModelInput(
            texts[row] if texts is not None else "",
            images[row] if images is not None else None,
            side,
            instruction,
        )
        for row in range(rows)
    ]


def _load(folder: Path) -> Any:
    def load(model_name: str, revision: str | None, **kwargs: Any) -> ExportedEncoder:
        del model_name, revision
        return ExportedEncoder(str(folder), **kwargs)

    return load
