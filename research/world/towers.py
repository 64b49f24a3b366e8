"""The reference model behind the baselines: words and the student's vision tower, for both sides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor, nn
from transformers import Qwen3VLForConditionalGeneration

from research.world.base_batch import patches_of
from research.world.base_model import vision_features
from research.world.base_tokenizer import IMAGE_TOKENS
from unime.core import console
from unime.data.items import Item

WORDS = 32
"""Most words an item may have, its instruction being one."""


@dataclass(frozen=True)
class Senses:
    """What a reference model may look at."""

    pictures: bool = True
    texts: bool = True
    """Without them it still reads the instruction."""
    order: bool = True
    """Without it a text is a bag of words."""


class FrozenVisionTower:
    """What the student's vision tower makes of pictures; frozen, every picture encoded once.

    A contrastive model starts from a vision tower that can see, and from random weights a few thousand
    pairs don't teach it: such a baseline would say more about its vision than about the world.
    """

    def __init__(self, root: Path, student: Path) -> None:
        self.root = root
        model = Qwen3VLForConditionalGeneration.from_pretrained(student, dtype=torch.float32)
        self._visual = model.model.visual.eval()
        self.width = model.model.language_model.config.hidden_size
        self._seen: dict[str, Float[Tensor, "tokens width"]] = {}

    @torch.no_grad()
    def look(self, names: Sequence[str], batch: int = 128) -> None:
        """Encode the pictures that are not known yet."""
        new = [name for name in dict.fromkeys(names) if name not in self._seen]
        starts = range(0, len(new), batch)
        for start in console.progress(starts, len(starts), "vision tower", "batches"):
            part = new[start : start + batch]
            pixels = np.stack([np.array(Image.open(self.root / name)) for name in part])
            features, _ = vision_features(self._visual, patches_of(pixels))
            rows = features.view(len(part), -1, self.width).half()
            self._seen |= dict(zip(part, rows, strict=True))

    def __call__(self, names: Sequence[str]) -> Float[Tensor, "batch tokens width"]:
        """Return the features of pictures, encoding those that are new."""
        if any(name not in self._seen for name in names):
            self.look(names)
        return torch.stack([self._seen[name] for name in names]).float()


@dataclass(frozen=True, slots=True)
class Input:
    """One side of a pair."""

    item: Item
    instruction: str


def words_of(side: Input, texts: bool = True) -> list[str]:
    """Return an item's words after its instruction, which is a word of its own."""
    return [f"<{side.instruction}>", *(side.item.text.lower().split() if texts else ())]


class Tower(nn.Module):
    """Words, and a look at the picture that the words steer; one unit vector out."""

    def __init__(self, words: int, senses: Senses, seen: int, width: int = 256) -> None:
        super().__init__()
        self.senses = senses
        self.words = nn.Embedding(words, width, padding_idx=0)
        self.phrases = nn.Conv1d(width, width, 3, padding=1, groups=8)
        self.seen = nn.Sequential(nn.LayerNorm(seen), nn.Dropout(0.1), nn.Linear(seen, width))
        self.places = nn.Parameter(0.1 * torch.randn(IMAGE_TOKENS, width))
        self.steer = nn.Linear(width, 2 * width)
        self.ask = nn.Linear(width, width)
        self.see = nn.Linear(2 * width, width)
        self.read_norm, self.see_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.head = nn.Sequential(
            nn.Linear(2 * width, 2 * width), nn.GELU(), nn.Dropout(0.1), nn.Linear(2 * width, 128)
        )
        self.scale = nn.Parameter(torch.tensor(2.7))

    def forward(
        self,
        words: Int[Tensor, "batch length"],
        pictures: Float[Tensor, "batch tokens seen"] | None,
    ) -> Float[Tensor, "batch dim"]:
        """Embed a batch of which all items have a picture, or none."""
        text = self._read(words)
        seen = torch.zeros_like(text) if pictures is None else self._look(pictures, text)
        return F.normalize(self.head(torch.cat([text, seen], dim=1)), dim=-1)

    def _read(self, words: Int[Tensor, "batch length"]) -> Float[Tensor, "batch width"]:
        """Average the words; where order counts, phrases of three words with them."""
        kept = (words != 0).unsqueeze(-1).float()
        tokens = self.words(words)
        if self.senses.order:
            tokens = tokens + F.gelu(self.phrases(tokens.transpose(1, 2))).transpose(1, 2)
        return self.read_norm((tokens * kept).sum(1))

    def _look(
        self, pictures: Float[Tensor, "batch tokens seen"], text: Float[Tensor, "batch width"]
    ) -> Float[Tensor, "batch width"]:
        """Scale and shift what is seen by what the words ask for (FiLM, arXiv:1709.07871); pool it.

        Half of the pooling is a mean, half looks where the words point, eight times.
        """
        scale, shift = self.steer(text)[:, None].chunk(2, dim=-1)
        tokens = F.gelu(self.seen(pictures) * (1 + scale) + shift + self.places)
        heads = tokens.unflatten(-1, (8, -1))
        asked = self.ask(text).unflatten(-1, (8, -1))
        focus = torch.einsum("bthd,bhd->bth", heads, asked).softmax(dim=1)
        pointed = torch.einsum("bth,bthd->bhd", focus, heads).flatten(1)
        return self.see_norm(self.see(torch.cat([tokens.mean(1), pointed], dim=1)))


class Reference:
    """A tower with its vocabulary and a frozen vision tower."""

    def __init__(
        self, vocabulary: dict[str, int], vision_tower: FrozenVisionTower, senses: Senses
    ) -> None:
        self.vocabulary, self.vision_tower, self.senses = vocabulary, vision_tower, senses
        self.tower = Tower(len(vocabulary) + 2, senses, vision_tower.width)

    def embed(self, inputs: Sequence[Input]) -> Float[Tensor, "batch dim"]:
        """Embed items of one kind: all with a picture, or none."""
        rows = [
            [self.vocabulary.get(word, 1) for word in words_of(i, self.senses.texts)][:WORDS]
            for i in inputs
        ]
        # Few widths only: the convolution keeps buffers for every one it has ever seen.
        width = -(-max(map(len, rows)) // 8) * 8
        words = torch.zeros(len(rows), width, dtype=torch.long)
        for row, ids in zip(words, rows, strict=True):
            row[: len(ids)] = torch.tensor(ids)
        pictures = None
        if inputs[0].item.image and self.senses.pictures:
            pictures = self.vision_tower([str(i.item.image) for i in inputs])
        return self.tower(words, pictures)

    @torch.no_grad()
    def embed_all(self, inputs: Sequence[Input], batch: int = 512) -> dict[Input, Tensor]:
        """Embed every distinct input once."""
        self.tower.eval()
        found: dict[Input, Tensor] = {}
        for pictured in (False, True):
            group = [i for i in dict.fromkeys(inputs) if bool(i.item.image) == pictured]
            for start in range(0, len(group), batch):
                part = group[start : start + batch]
                found |= dict(zip(part, self.embed(part), strict=True))
        return found


def train(
    model: Reference,
    tasks: dict[str, list[tuple[Input, Input]]],
    epochs: int,
    generator: np.random.Generator,
    batch: int = 128,
) -> None:
    """Train by in-batch contrast, one task a batch; equal targets are no negatives of each other."""
    batches = [name for name, pairs in tasks.items() for _ in range(epochs * len(pairs) // batch)]
    batches = [batches[i] for i in generator.permutation(len(batches))]
    model.tower.train()
    optimizer = torch.optim.AdamW(model.tower.parameters(), lr=1.5e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.5e-3, total_steps=len(batches))
    for name in console.progress(batches, len(batches), "baseline", "steps"):
        pairs = tasks[name]
        chosen = [pairs[i] for i in generator.choice(len(pairs), min(batch, len(pairs)), False)]
        query = model.embed([query for query, _ in chosen])
        target = model.embed([target for _, target in chosen])
        numbers = {item: i for i, item in enumerate({target.item: None for _, target in chosen})}
        same = torch.tensor([numbers[target.item] for _, target in chosen])
        logits = query @ target.T * model.tower.scale.exp().clamp(max=100)
        twin = (same[:, None] == same[None, :]) & ~torch.eye(len(chosen), dtype=torch.bool)
        logits, gold = logits.masked_fill(twin, -1e4), torch.arange(len(chosen))
        loss = F.cross_entropy(logits, gold) + F.cross_entropy(logits.T, gold)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
