"""The model of a recipe: an embedder's, a judge's or a reranker's."""

from __future__ import annotations

from pydantic import field_validator

from unime.data.image_processor import ModelSection
from unime.models.prompts import load_judge_prompt, load_prompt


class ModelConfig(ModelSection):
    """A vision-language model and how inputs are prepared for it; its prompt file is there."""

    @field_validator("prompt")
    @classmethod
    def _known_prompt(cls, prompt: str) -> str:
        (load_judge_prompt if prompt.startswith("judge/") else load_prompt)(prompt)
        return prompt


class RerankConfig(ModelConfig):
    """A reranker's model and prompts."""

    prompt: str = "judge/yes_no.v1"
    """Asks about one candidate: a judge's prompt, so that a reranker can be the judge."""
    list_prompt: str = "rerank/choose.v1"
    """Asks which candidate of a list is best."""
