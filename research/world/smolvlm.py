"""Stage `smolvlm`: a SmolVLM around a real language model (`python -m research.world smolvlm RECIPE`).

No package holds the weights of a vision-language model, but one holds a language model's:
SmolLM2-135M, as a 4-bit GGUF file. This puts the dequantised weights into the text model of
transformers' SmolVLM, every one of them checked, and gives it a small vision tower and connector of
random weights, a processor and a chat template, so that every stage takes it for a model.
**Its vision tower is random: only what it does with text can be measured.**
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from unime.core import files
from unime.core.config import Recipe, Section
from unime.core.console import log
from unime.core.errors import DataError, ModelError
from unime.core.provenance import Output

# ChatML, as SmolLM2 knows it, without the system text that its own template makes up; pictures are
# parts of a turn.
TEMPLATE = """{%- for message in messages -%}
<|im_start|>{{ message['role'] }}
{% if message['content'] is string %}{{ message['content'] }}{% else %}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}<image>{%- elif part['type'] == 'text' -%}{{ part['text'] }}{%- endif -%}
{%- endfor -%}
{%- endif -%}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant
{% endif -%}"""

PICTURE_TOKENS = {
    "image_token": "<image>",
    "fake_image_token": "<fake_token_around_image>",
    "global_image_token": "<global-img>",
    "end_of_utterance_token": "<end_of_utterance>",
}
"""What SmolVLM's processor writes around and for pictures, beside the names of tiles."""


class VisionTowerConfig(Section):
    """The vision tower, of random weights."""

    image_size: int = Field(default=64, gt=0)
    """Side of a picture, and of a tile, in pixels."""
    patch_size: int = Field(default=16, gt=0)
    hidden_size: int = Field(default=64, gt=0)
    layers: int = Field(default=2, gt=0)
    heads: int = Field(default=2, gt=0)
    scale_factor: int = Field(default=2, gt=0)
    """So many patches squared become one token."""

    @property
    def tokens(self) -> int:
        """Tokens a tile."""
        return (self.image_size // self.patch_size // self.scale_factor) ** 2


class SmolvlmRecipe(Recipe):
    """Which language model, with which vision tower."""

    language_model: str
    """A GGUF file; `python -m research.world teacher --also` fetches one."""
    eyes: VisionTowerConfig = VisionTowerConfig()
    seed: int = 0
    """Of the random weights."""


RECIPE = SmolvlmRecipe


def inputs(recipe: SmolvlmRecipe) -> dict[str, Path]:
    """Return what the stage reads."""
    return {"language_model": Path(recipe.language_model)}


def run(recipe: SmolvlmRecipe, out: Output) -> None:
    """Write `<output>/model`, a plain Hugging Face folder.

    Raises:
        DataError: when the file is missing.
        ModelError: when it cannot be read, or its weights are not just what the text model needs.
    """
    import torch

    path = Path(recipe.language_model)
    if not path.is_file():
        raise DataError(
            f"{path} is missing (working directory {Path.cwd()}); `python -m research.world teacher "
            "runs/teacher --also SmolLM2-135M-Instruct` fetches it"
        )
    language_model, tokenizer = load_gguf(path)
    torch.manual_seed(recipe.seed)
    model = with_vision_tower(language_model, add_picture_tokens(tokenizer), recipe.eyes)
    processor = _processor(tokenizer, recipe.eyes)
    with files.atomic_folder(out.file("model")) as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    counts = {
        part: sum(p.numel() for p in getattr(model.model, part).parameters())
        for part in ("text_model", "vision_model", "connector")
    }
    out.facts(parameters=counts, random=["vision_model", "connector"])
    log(
        f"{out.file('model')}: {counts['text_model']:,} parameters that read; the vision tower is random"
    )


def load_gguf(path: Path) -> tuple[Any, Any]:
    """Return the language model of a GGUF file in float32, and its tokenizer.

    Raises:
        ModelError: when it cannot be read.
    """
    from importlib.util import find_spec

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    if find_spec("gguf") is None:
        raise ModelError("reading a GGUF file needs the package gguf: pip install gguf")
    source = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    try:
        model = AutoModelForCausalLM.from_pretrained(
            **source, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
        )
        return model, AutoTokenizer.from_pretrained(**source)
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {path}: {' '.join(str(error).split())[:300]}") from None


def add_picture_tokens(tokenizer: Any) -> Any:
    """Give a tokenizer what SmolVLM's processor writes for pictures, in place; return it."""
    # Tiles are named by row and column; at most two of each are used.
    tiles = [f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)]
    tokenizer.add_special_tokens({"additional_special_tokens": [*PICTURE_TOKENS.values(), *tiles]})
    return tokenizer


def with_vision_tower(language_model: Any, tokenizer: Any, tower: VisionTowerConfig) -> Any:
    """Return a SmolVLM with a language model's weights and a random vision tower.

    Args:
        language_model: a decoder such as Llama, with its head.
        tokenizer: with the tokens for pictures.
        tower: the vision tower's sizes.

    Raises:
        ModelError: when a weight is missing, left over or of another shape.
    """
    import transformers

    # The rows of new tokens are drawn round the mean of the known ones.
    language_model.resize_token_embeddings(len(tokenizer))
    token = tokenizer.convert_tokens_to_ids
    text = language_model.config.to_dict() | {"architectures": None, "_name_or_path": ""}
    vision: dict[str, Any] = {
        "image_size": tower.image_size, "patch_size": tower.patch_size,
        "hidden_size": tower.hidden_size, "intermediate_size": 2 * tower.hidden_size,
        "num_hidden_layers": tower.layers, "num_attention_heads": tower.heads,
    }  # fmt: skip
    config = transformers.SmolVLMConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=token(PICTURE_TOKENS["image_token"]),
        scale_factor=tower.scale_factor,
        tie_word_embeddings=language_model.config.tie_word_embeddings,
    )
    model = transformers.SmolVLMForConditionalGeneration(config)
    try:
        model.model.text_model.load_state_dict(language_model.model.state_dict(), strict=True)
        model.lm_head.load_state_dict(language_model.lm_head.state_dict(), strict=True)
    except RuntimeError as error:
        raise ModelError(f"the language model is no text model of a SmolVLM: {error}") from None
    model.tie_weights()
    return model.eval()


def _processor(tokenizer: Any, tower: VisionTowerConfig) -> Any:
    import transformers

    for name, value in PICTURE_TOKENS.items():
        setattr(tokenizer, name, value)
        tokenizer.init_kwargs[name] = value
    edges: dict[str, Any] = {
        "size": {"longest_edge": tower.image_size},
        "max_image_size": {"longest_edge": tower.image_size},
    }
    return transformers.SmolVLMProcessor(
        image_processor=transformers.SmolVLMImageProcessor(**edges),
        tokenizer=tokenizer,
        video_processor=transformers.SmolVLMVideoProcessor(num_frames=1, fps=1, **edges),
        image_seq_len=tower.tokens,
        chat_template=TEMPLATE,
    )
