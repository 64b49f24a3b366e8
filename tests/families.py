"""Tiny random checkpoints of five VLM families, so that every test can run on a real architecture offline.

`build_family(name, folder)` writes a plain Hugging Face folder of a few hundred kB: model, tokenizer
trained here on a few sentences, image processor, chat template. The templates are written here and
behave like the published ones where families differ:

* qwen2_vl, qwen2_5_vl insert a default system message when the conversation has none;
* qwen3_vl accepts a system message and inserts none;
* smolvlm opens the text once, names roles in words and ends every utterance with a token of its own;
* llava_onevision has no system role (a system message vanishes) and puts images before text.

Weights are drawn with a spread far above the usual 0.02, otherwise a random model is nearly blind to
its input and every cosine is close to 1.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "smolvlm", "llava_onevision")
IMAGE_SIZE = 28
"""Side in pixels of the pictures the square-image families resize to."""

_CORPUS = (
    "a red circle left of a blue square on a green background",
    "the large yellow triangle is above the small purple star",
    "which colour is the object below the striped ring? Answer yes or no.",
    "system user assistant User: Assistant: System: You are a helpful assistant.",
    "Describe the picture, then find the sentence that says the same thing.",
    "represent the given image with the following question; summarise the content in one word",
)

_QWEN_BODY = """{%- for message in messages -%}
<|im_start|>{{ message['role'] }}
{% if message['content'] is string %}{{ message['content'] }}{% else %}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}<|vision_start|><|image_pad|><|vision_end|>
{%- elif part['type'] == 'text' -%}{{ part['text'] }}{%- endif -%}
{%- endfor -%}
{%- endif -%}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant
{% endif -%}"""

_QWEN_DEFAULT_SYSTEM = """{%- if messages[0]['role'] != 'system' -%}
<|im_start|>system
You are a helpful assistant.<|im_end|>
{% endif -%}
"""

_SMOLVLM_TEMPLATE = """<|im_start|>{% for message in messages -%}
{{ message['role'] | capitalize }}{% if message['content'][0]['type'] == 'image' %}:{% else %}: {% endif %}
{%- for part in message['content'] -%}
{%- if part['type'] == 'text' -%}{{ part['text'] }}{%- elif part['type'] == 'image' -%}<image>{%- endif -%}
{%- endfor -%}<end_of_utterance>
{% endfor -%}
{%- if add_generation_prompt -%}Assistant:{%- endif -%}"""

_LLAVA_TEMPLATE = """{%- for message in messages -%}
{%- if message['role'] in ['user', 'assistant'] -%}
<|im_start|>{{ message['role'] }} {% for part in message['content'] if part['type'] == 'image' -%}
<image>{%- endfor -%}
{%- for part in message['content'] if part['type'] == 'text' -%}{{ '\\n' + part['text'] }}{%- endfor -%}
<|im_end|>
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant
{% endif -%}"""

_QWEN_TOKENS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>",
    "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
_SMOLVLM_TOKENS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<end_of_utterance>", "<image>",
    "<fake_token_around_image>", "<global-img>", "<row_1_col_1>", "<row_1_col_2>",
    "<row_2_col_1>", "<row_2_col_2>",
)  # fmt: skip
_LLAVA_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>")

_BUILT: dict[str, tempfile.TemporaryDirectory[str]] = {}


def build_family(name: str, folder: Path | str) -> Path:
    """Write the tiny checkpoint of one family into `folder` and return it.

    Built once a process and copied, so the folder may be changed freely.

    Args:
        name: One of `FAMILIES`.
        folder: Where the checkpoint goes; created when missing.

    Returns:
        The folder, loadable by AutoModel, AutoModelForImageTextToText and AutoProcessor.
    """
    if name not in _BUILT:
        # Removed with the object, at the latest when the process ends.
        keep = tempfile.TemporaryDirectory(prefix=f"unime-{name}-")
        _BUILDERS[name](name, Path(keep.name))
        _BUILT[name] = keep
    shutil.copytree(_BUILT[name].name, folder, dirs_exist_ok=True)
    return Path(folder)


def build_tokenizer(special_tokens: tuple[str, ...], pad: str, end: str, **named: str) -> Any:
    """Train a byte-level BPE tokenizer on the corpus above and add the special tokens."""
    from tokenizers import (
        AddedToken,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        trainers,
    )
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(
        vocab_size=480, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in special_tokens]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=pad,
        eos_token=end,
        model_max_length=2048,
        extra_special_tokens=named,
    )


def _save(model: Any, processor: Any, folder: Path) -> None:
    """Spread the weights, then write model and processor."""
    import torch

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                # The square root of the fan-in keeps activations of order one through all layers.
                fan_in = parameter[0].numel()
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / fan_in**0.5)
    model.tie_weights()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def _qwen_processor(name: str, tokenizer: Any, template: str) -> Any:
    """The processor of one of the three Qwen families, limited to small pictures."""
    import transformers

    patch_size = 16 if name == "qwen3_vl" else 14
    side = 2 * patch_size
    pixels = {"shortest_edge": side * side, "longest_edge": 9 * side * side}
    image_processor = transformers.Qwen2VLImageProcessor(patch_size=patch_size, size=pixels)
    video_class = (
        transformers.Qwen3VLVideoProcessor
        if name == "qwen3_vl"
        else transformers.Qwen2VLVideoProcessor
    )
    processor_class = {
        "qwen2_vl": transformers.Qwen2VLProcessor,
        "qwen2_5_vl": transformers.Qwen2_5_VLProcessor,
        "qwen3_vl": transformers.Qwen3VLProcessor,
    }[name]
    return processor_class(
        image_processor=image_processor,
        tokenizer=tokenizer,
        video_processor=video_class(patch_size=patch_size),
        chat_template=template,
    )


def _build_qwen(name: str, folder: Path) -> None:
    """Write Qwen2-VL, Qwen2.5-VL or Qwen3-VL."""
    import transformers

    tokenizer = build_tokenizer(_QWEN_TOKENS, pad="<|endoftext|>", end="<|im_end|>")
    token = tokenizer.convert_tokens_to_ids
    template = _QWEN_BODY if name == "qwen3_vl" else _QWEN_DEFAULT_SYSTEM + _QWEN_BODY
    text: dict[str, Any] = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 4096,
        "bos_token_id": None, "eos_token_id": token("<|im_end|>"), "pad_token_id": token("<|endoftext|>"),
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
    }  # fmt: skip
    vision: dict[str, Any] = {"depth": 2, "num_heads": 2, "patch_size": 14, "spatial_merge_size": 2}
    if name == "qwen2_vl":
        vision |= {"embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2}
    elif name == "qwen2_5_vl":
        vision |= {
            "hidden_size": 32, "intermediate_size": 64, "out_hidden_size": 32, "window_size": 56,
            "fullatt_block_indexes": [1],
        }  # fmt: skip
    else:
        text |= {
            "head_dim": 16,
            "rope_parameters": {**text["rope_parameters"], "mrope_interleaved": True},
        }
        text.pop("bos_token_id")
        vision |= {
            "hidden_size": 32, "intermediate_size": 64, "out_hidden_size": 32, "patch_size": 16,
            "num_position_embeddings": 64, "deepstack_visual_indexes": [0],
        }  # fmt: skip
    prefix = {"qwen2_vl": "Qwen2VL", "qwen2_5_vl": "Qwen2_5_VL", "qwen3_vl": "Qwen3VL"}[name]
    config = getattr(transformers, f"{prefix}Config")(
        text_config=text,
        vision_config=vision,
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=name != "qwen2_5_vl",
    )
    model = getattr(transformers, f"{prefix}ForConditionalGeneration")(config)
    _save(model, _qwen_processor(name, tokenizer, template), folder)


def _build_smolvlm(name: str, folder: Path) -> None:
    """Write SmolVLM: square pictures, every one split into up to four tiles and the whole."""
    import transformers

    tokenizer = build_tokenizer(
        _SMOLVLM_TOKENS,
        pad="<|im_end|>",
        end="<end_of_utterance>",
        image_token="<image>",
        fake_image_token="<fake_token_around_image>",
        global_image_token="<global-img>",
        end_of_utterance_token="<end_of_utterance>",
    )
    token = tokenizer.convert_tokens_to_ids
    text: dict[str, Any] = {
        "model_type": "llama", "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 4096,
        "pad_token_id": token("<|im_end|>"), "bos_token_id": token("<|im_start|>"), "eos_token_id": token("<end_of_utterance>"),
    }  # fmt: skip
    vision: dict[str, Any] = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": IMAGE_SIZE, "patch_size": 7,
    }  # fmt: skip
    config = transformers.SmolVLMConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=token("<image>"),
        scale_factor=2,
        tie_word_embeddings=True,
    )
    edges: dict[str, Any] = {
        "size": {"longest_edge": 2 * IMAGE_SIZE},
        "max_image_size": {"longest_edge": IMAGE_SIZE},
    }
    processor = transformers.SmolVLMProcessor(
        image_processor=transformers.SmolVLMImageProcessor(**edges),
        tokenizer=tokenizer,
        video_processor=transformers.SmolVLMVideoProcessor(num_frames=1, fps=1, **edges),
        image_seq_len=4,
        chat_template=_SMOLVLM_TEMPLATE,
    )
    _save(transformers.SmolVLMForConditionalGeneration(config), processor, folder)


def _build_llava(name: str, folder: Path) -> None:
    """Write LLaVA-OneVision: SigLIP tower, Qwen2 text model, grids of square tiles."""
    import transformers

    tokenizer = build_tokenizer(_LLAVA_TOKENS, pad="<|endoftext|>", end="<|im_end|>")
    token = tokenizer.convert_tokens_to_ids
    sides = (IMAGE_SIZE, 2 * IMAGE_SIZE)
    pinpoints = [[height, width] for height in sides for width in sides]
    text: dict[str, Any] = {
        "model_type": "qwen2", "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 4096,
        "bos_token_id": None, "eos_token_id": token("<|im_end|>"), "pad_token_id": token("<|endoftext|>"),
    }  # fmt: skip
    vision: dict[str, Any] = {
        "model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "image_size": IMAGE_SIZE, "patch_size": 14, "vision_use_head": False,
    }  # fmt: skip
    config = transformers.LlavaOnevisionConfig(
        text_config=text,
        vision_config=vision,
        image_token_index=token("<image>"),
        video_token_index=token("<video>"),
        image_grid_pinpoints=pinpoints,
        tie_word_embeddings=False,
    )
    square: dict[str, Any] = {"size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE}}
    processor = transformers.LlavaOnevisionProcessor(
        image_processor=transformers.LlavaOnevisionImageProcessor(
            image_grid_pinpoints=pinpoints, **square
        ),
        tokenizer=tokenizer,
        video_processor=transformers.LlavaOnevisionVideoProcessor(**square),
        num_image_tokens=(IMAGE_SIZE // 14) ** 2,
        vision_feature_select_strategy="full",
        chat_template=_LLAVA_TEMPLATE,
    )
    _save(transformers.LlavaOnevisionForConditionalGeneration(config), processor, folder)


_BUILDERS: dict[str, Callable[[str, Path], None]] = {
    "qwen2_vl": _build_qwen,
    "qwen2_5_vl": _build_qwen,
    "qwen3_vl": _build_qwen,
    "smolvlm": _build_smolvlm,
    "llava_onevision": _build_llava,
}
