"""Models: any open vision-language model as an embedder, with adapters, and as a judge."""

from unime.models.adapters import LoraSection, apply_lora, merge_lora, tower_is_frozen
from unime.models.embedder import Embedder
from unime.models.rendering import Encode

__all__ = ["Embedder", "Encode", "LoraSection", "apply_lora", "merge_lora", "tower_is_frozen"]
