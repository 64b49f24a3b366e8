"""The student's tokenizer, chat template and processor, in the layout of Qwen3-VL's.

The byte-level BPE is trained on the world's own texts and on the most frequent English words, so
that a caption costs one token a word and any other text still costs few.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessor,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from research.world import words
from research.world.base_prompts import SYSTEMS, TEXTS
from research.world.language import caption
from research.world.questions import questions
from research.world.sample import sample_scene
from research.world.scene import BACKGROUNDS, CELLS, COLOURS, SHAPES, SIZES, TEXTURES
from research.world.sprites import load as load_sprites

END_OF_TEXT, TURN, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
IMAGE_START, IMAGE_END = "<|vision_start|>", "<|vision_end|>"
IMAGE, VIDEO = "<|image_pad|>", "<|video_pad|>"
IMAGE_SLOT = IMAGE_START + IMAGE + IMAGE_END
"""What a chat template writes for a picture."""
SPECIALS = (END_OF_TEXT, TURN, END, IMAGE_START, IMAGE_END, IMAGE, VIDEO)
ENGLISH = Path(__file__).resolve().parents[2] / "assets" / "english" / "words.tsv"
SIDE, PATCH, MERGE = 64, 8, 2
IMAGE_TOKENS = (SIDE // PATCH // MERGE) ** 2
MEAN, DEVIATION = 0.5, 0.25
"""Of pixels in 0..1, for all three channels."""

# ChatML without a default system turn; pictures stand where the message puts them.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message['role'] }}
{% if message['content'] is string -%}
{{ message['content'] }}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' or 'image' in part or 'image_url' in part -%}
<|vision_start|><|image_pad|><|vision_end|>
{%- elif 'text' in part -%}
{{ part['text'] }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}
"""


def train_tokenizer(vocabulary: int, seed: int) -> Tokenizer:
    """Train the byte-level BPE.

    Args:
        vocabulary: Number of tokens, special ones included.
        seed: Of the captions and questions it sees.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[AddedToken(token, special=True) for token in SPECIALS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*_world_texts(seed), *_english_texts()], trainer)
    return tokenizer


def build_processor(tokenizer: Tokenizer) -> Qwen3VLProcessor:
    """Wrap the tokenizer into a processor that makes every picture 64 x 64."""
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=END_OF_TEXT,
        additional_special_tokens=[TURN, IMAGE_START, IMAGE_END, IMAGE, VIDEO],
        model_max_length=1024,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )
    options = {
        "patch_size": PATCH,
        "merge_size": MERGE,
        "size": {"shortest_edge": SIDE * SIDE, "longest_edge": SIDE * SIDE},
        "image_mean": [MEAN] * 3,
        "image_std": [DEVIATION] * 3,
    }
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(**options),
        tokenizer=fast,
        video_processor=Qwen3VLVideoProcessor(**options),
        chat_template=CHAT_TEMPLATE,
    )


def _world_texts(seed: int) -> Iterator[str]:
    """Yield every word of the world often, and sentences that show how they follow each other."""
    rng = np.random.default_rng(seed)
    for partition in ("base", "judge", "train"):
        for _ in range(600):
            scene = sample_scene(rng, partition)
            yield caption(scene, rng, partition).text
            for question in questions(scene, rng, partition):
                yield f"{question.question}\n{question.answer}"
    # A merge needs frequent pairs: single words, with and without a space before them.
    names = [*COLOURS, *SHAPES, *SIZES, *TEXTURES, *BACKGROUNDS, *words.NUMBERS, *CELLS]
    names += [*words.SYNONYMS.values(), *map(words.plural, SHAPES)]
    names += [*load_sprites(), "yes", "no", "Yes", "No", "system", "user", "assistant"]
    for name in names:
        yield from [name, f" {name}"] * 300
    for text in (*SYSTEMS, *TEXTS):
        yield from [text] * 30


def _english_texts() -> Iterator[str]:
    """Yield frequent words as often as their logarithm says, to share the vocabulary out."""
    for line in ENGLISH.read_text(encoding="utf-8").splitlines():
        word, count = line.split("\t")
        yield from [f" {word}"] * int(np.log2(int(count)) * 4)
