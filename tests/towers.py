"""A tiny vision-language model whose vision tower normalises by batches: FastVLM around timm's EfficientNet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.families import _LLAVA_TEMPLATE, _LLAVA_TOKENS, _save, build_tokenizer

SIDE = 64
"""Of its pictures, in pixels."""


def build_batchnorm(folder: Path) -> Path:
    """Write the checkpoint into a folder and return it; its running statistics are those of noise."""
    import torch
    import transformers

    tokenizer = build_tokenizer(_LLAVA_TOKENS, pad="<|endoftext|>", end="<|im_end|>")
    token = tokenizer.convert_tokens_to_ids
    text: dict[str, Any] = {
        "model_type": "qwen2", "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 4096,
        "bos_token_id": None, "eos_token_id": token("<|im_end|>"), "pad_token_id": token("<|endoftext|>"),
    }  # fmt: skip
    vision = {
        "model_type": "timm_wrapper", "architecture": "test_efficientnet", "hidden_size": 256,
        "do_pooling": False, "num_classes": 0, "model_args": {"drop_path_rate": 0.2},
    }  # fmt: skip
    config = transformers.FastVlmConfig(
        text_config=text, vision_config=vision, image_token_index=token("<image>")
    )
    processor = transformers.LlavaProcessor(
        image_processor=transformers.CLIPImageProcessor(
            size={"height": SIDE, "width": SIDE}, do_center_crop=False
        ),
        tokenizer=tokenizer,
        patch_size=32,
        vision_feature_select_strategy="full",
        chat_template=_LLAVA_TEMPLATE,
    )
    model = transformers.FastVlmForConditionalGeneration(config)
    tower = model.model.vision_tower.train()
    torch.manual_seed(0)
    with torch.no_grad():
        for _ in range(20):
            tower(torch.randn(4, 3, SIDE, SIDE))
    _save(model, processor, folder)
    return folder
