"""The reference model behind the baselines: words and a small convolutional eye, for both sides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor, nn

from unime import console
from unime.records import Item

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


def _jolt(
    pictures: Float[Tensor, "batch 3 side side"], most: int = 3
) -> Float[Tensor, "batch 3 side side"]:
    """Shift a batch of pictures by a few pixels: they are few, and would be learnt by heart."""
    down, right = torch.randint(0, 2 * most + 1, (2,)).tolist()
    side = pictures.shape[-1]
    padded = F.pad(pictures, (most,) * 4, mode="replicate")
    return padded[..., down : down + side, right : right + side]


@dataclass(frozen=True, slots=True)
class Input:
    """One side of a pair."""

    item: Item
    instruction: str


def words_of(side: Input, texts: bool = True) -> list[str]:
    """Return an item's words after its instruction, which is a word of its own."""
    return [f"<{side.instruction}>", *(side.item.text.lower().split() if texts else ())]


class Tower(nn.Module):
    """A few convolutions over the picture, steered by the words; one unit vector out."""

    def __init__(self, words: int, senses: Senses, width: int = 256, planes: int = 96) -> None:
        super().__init__()
        self.senses = senses
        self.words = nn.Embedding(words, width, padding_idx=0)
        self.phrases = nn.Conv1d(width, width, 3, padding=1)
        self.eyes = nn.Sequential(
            nn.Conv2d(3, 48, 8, stride=4, padding=2),
            nn.GELU(),
            nn.Conv2d(48, planes, 3, stride=2, padding=1),
        )
        self.norm = nn.GroupNorm(8, planes)
        self.steer = nn.Linear(width, 2 * planes)
        self.places = nn.Conv2d(planes, 32, 3, padding=1)
        self.see = nn.Linear(32 * 64, width)
        self.read_norm, self.see_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.head = nn.Sequential(
            nn.Linear(2 * width, 2 * width), nn.GELU(), nn.Dropout(0.1), nn.Linear(2 * width, 128)
        )
        self.scale = nn.Parameter(torch.tensor(2.7))

    def forward(
        self,
        words: Int[Tensor, "batch length"],
        pictures: Float[Tensor, "batch 3 side side"] | None,
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
        self, pictures: Float[Tensor, "batch 3 side side"], text: Float[Tensor, "batch width"]
    ) -> Float[Tensor, "batch width"]:
        """Scale and shift what the eyes see by what the words ask for (FiLM, arXiv:1709.07871)."""
        scale, shift = self.steer(text)[..., None, None].chunk(2, dim=1)
        planes = F.gelu(self.norm(self.eyes(pictures)) * (1 + scale) + shift)
        return self.see_norm(self.see(F.gelu(self.places(planes)).flatten(1)))


class Reference:
    """A tower with its vocabulary and the pictures it has read."""

    def __init__(self, vocabulary: dict[str, int], root: Path, senses: Senses) -> None:
        self.vocabulary, self.root, self.senses = vocabulary, root, senses
        self.tower = Tower(len(vocabulary) + 2, senses)
        # np.array, not np.asarray: that would keep the whole decoder alive behind every picture.
        self._pixels = cache(lambda name: np.array(Image.open(root / name)).transpose(2, 0, 1))

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
            stacked = np.stack([self._pixels(i.item.image) for i in inputs])
            pictures = torch.from_numpy(stacked).float() / 127.5 - 1
            if self.tower.training:
                pictures = _jolt(pictures)
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
