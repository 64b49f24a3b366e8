"""The student: a tiny Qwen3-VL, and a forward pass that is fast for equal pictures on a CPU."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.models.qwen3_vl.modeling_qwen3_vl import (
    Qwen3VLVisionAttention,
    Qwen3VLVisionBlock,
    Qwen3VLVisionModel,
)

from research.world.base_batch import MicroBatch
from research.world.base_tokenizer import (
    END,
    END_OF_TEXT,
    IMAGE,
    IMAGE_END,
    IMAGE_START,
    MERGE,
    PATCH,
    SIDE,
    SPECIALS,
    VIDEO,
)  # fmt: skip
from unime.core.config import Section

GRID = SIDE // PATCH
SPACE = chr(288)  # how byte-level BPE writes a space


class Architecture(Section):
    """Sizes of the student."""

    vocabulary: int = 2048
    hidden: int = 256
    layers: int = 4
    heads: int = 4
    mlp: int = 640
    vision_hidden: int = 128
    vision_layers: int = 4
    vision_heads: int = 4
    vision_mlp: int = 512
    deepstack: tuple[int, ...] = (1,)
    """Vision layers whose output is also added to the first layers of the language model."""


def build_model(architecture: Architecture, seed: int) -> Qwen3VLForConditionalGeneration:
    """Build the student with random weights."""
    torch.manual_seed(seed)
    ids = {token: SPECIALS.index(token) for token in SPECIALS}
    head = architecture.hidden // architecture.heads
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": architecture.vocabulary,
            "hidden_size": architecture.hidden,
            "intermediate_size": architecture.mlp,
            "num_hidden_layers": architecture.layers,
            "num_attention_heads": architecture.heads,
            "num_key_value_heads": architecture.heads // 2,
            "head_dim": head,
            "max_position_embeddings": 1024,
            # A quarter of the frequencies for time, the rest for height and width.
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [head // 8, head * 3 // 16, head * 3 // 16],
                "mrope_interleaved": True,
            },
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": ids[END],
            "pad_token_id": ids[END_OF_TEXT],
        },
        vision_config={
            "depth": architecture.vision_layers,
            "hidden_size": architecture.vision_hidden,
            "intermediate_size": architecture.vision_mlp,
            "out_hidden_size": architecture.hidden,
            "num_heads": architecture.vision_heads,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 2,
            "num_position_embeddings": GRID * GRID,
            "deepstack_visual_indexes": list(architecture.deepstack),
        },
        image_token_id=ids[IMAGE],
        video_token_id=ids[VIDEO],
        vision_start_token_id=ids[IMAGE_START],
        vision_end_token_id=ids[IMAGE_END],
        tie_word_embeddings=True,
    )
    model = Qwen3VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = ids[END]
    model.generation_config.pad_token_id = ids[END_OF_TEXT]
    return model


def share_words(model: Qwen3VLForConditionalGeneration, tokenizer: Tokenizer) -> None:
    """Start "red" and " red" with the same embedding: they are different tokens, but one word."""
    vocabulary = tokenizer.get_vocab()
    weight = model.model.language_model.embed_tokens.weight
    with torch.no_grad():
        for token, index in vocabulary.items():
            spaced = vocabulary.get(f"{SPACE}{token}")
            if spaced is not None:
                weight[index] = weight[spaced]


def answer_logits(
    model: Qwen3VLForConditionalGeneration, batch: MicroBatch
) -> tuple[Float[Tensor, "answers vocabulary"], Int[Tensor, " answers"]]:
    """Predict every answer token of a micro-batch.

    Rows are padded on the right and attention is causal, so only branches need a mask.

    Returns:
        Logits and targets of the answer positions, in row-major order.
    """
    language = model.model.language_model
    embeddings = language.embed_tokens(batch.tokens)
    options = {}
    if len(batch.patches):
        is_image = batch.tokens == model.config.image_token_id
        features, deep = vision_features(model.model.visual, batch.patches)
        embeddings = embeddings.masked_scatter(is_image[..., None], features.to(embeddings.dtype))
        options = {"visual_pos_masks": is_image, "deepstack_visual_embeds": deep}
    states = language(
        inputs_embeds=embeddings,
        position_ids=batch.positions,
        attention_mask=_mask(batch.branches),
        use_cache=False,
        **options,
    ).last_hidden_state
    is_answer = batch.weights[:, 1:] > 0
    return model.lm_head(states[:, :-1][is_answer]), batch.tokens[:, 1:][is_answer]


def _mask(branches: Int[Tensor, "batch length"]) -> Bool[Tensor, "batch 1 length length"] | None:
    """Let tokens see what all see and their own branch, as far as it stands before them."""
    if not branches.any():
        return None
    seen = branches[:, None, :]
    visible = (seen == 0) | (seen == branches[:, :, None])
    return visible.tril()[:, None]


def vision_features(
    visual: Qwen3VLVisionModel, patches: Float[Tensor, "images patches values"]
) -> tuple[Float[Tensor, "tokens hidden"], list[Float[Tensor, "tokens hidden"]]]:
    """Encode pictures of SIDE x SIDE pixels: the same as `visual(...)`, without its loop over them.

    Returns:
        What the merger gives, and what the deepstack mergers give.
    """
    rows, columns = merge_order()
    hidden = functional.linear(
        patches, visual.patch_embed.proj.weight.flatten(1), visual.patch_embed.proj.bias
    )
    hidden = hidden + visual.pos_embed(rows * GRID + columns)
    cosine, sine = visual.rotary_pos_emb(hidden, torch.stack([rows, columns], dim=-1))
    deep = []
    for number, block in enumerate(visual.blocks):
        assert isinstance(block, Qwen3VLVisionBlock), type(block)
        hidden = hidden + _attend(block.attn, block.norm1(hidden), cosine, sine)
        hidden = hidden + block.mlp(block.norm2(hidden))
        if number in visual.deepstack_visual_indexes:
            merger = visual.deepstack_merger_list[visual.deepstack_visual_indexes.index(number)]
            deep.append(merger(hidden.reshape(-1, hidden.shape[-1])))
    return visual.merger(hidden.reshape(-1, hidden.shape[-1])), deep


def merge_order() -> tuple[Int[Tensor, " patches"], Int[Tensor, " patches"]]:
    """Return row and column of each patch: the patches that become one token stand together."""
    blocks = GRID // MERGE
    index = torch.arange(GRID * GRID).view(blocks, MERGE, blocks, MERGE)
    index = index.permute(0, 2, 1, 3).flatten()
    return index // GRID, index % GRID


def _attend(
    attention: Qwen3VLVisionAttention, hidden: Tensor, cosine: Tensor, sine: Tensor
) -> Tensor:
    shape = (*hidden.shape[:2], 3, attention.num_heads, -1)
    query, key, value = attention.qkv(hidden).view(shape).permute(2, 0, 3, 1, 4).unbind(0)
    query, key = _rotate(query, cosine, sine), _rotate(key, cosine, sine)
    mixed = functional.scaled_dot_product_attention(query, key, value)
    return attention.proj(mixed.transpose(1, 2).flatten(2))


def _rotate(states: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    first, second = states.chunk(2, dim=-1)
    return states * cosine + torch.cat((-second, first), dim=-1) * sine
