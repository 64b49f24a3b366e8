"""Next-token logits of prompts that begin alike: what they share is computed once.

A judge or a reranker asks about many candidates of one query; a listwise reranker about many orders.
The longest common beginning of such prompts (system text, instruction, query, query image) goes
through the model once, its keys and values serve all of them, and each prompt pays for its own end
alone. The results are those of independent runs.

Three traps, each silent: Qwen's positions must be computed on the whole prompt; a beginning must
not end within different pictures' equal image tokens; LLaVA-OneVision's token block of an image
depends on how many images the prompt has.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from unime.models.hooks import hidden_states, hooks_of, position_ids
from unime.models.image_blocks import ImageBlock, ImageFeatures, vision_output
from unime.models.prompt_tokens import (
    Prompt,
    PromptTokens,
    place_blocks,
    plain_hidden,
    plain_inputs,
    token_ids,
)
from unime.models.shared_prefix import SHORTEST, Stretch, continued, keys_and_values, shared_lengths


class NextToken:
    """Asks a generative model what comes next.

    Args:
        model: a vision-language model with its head, in evaluation mode.
        processor: with the wrapped chat template.
        batch_size: prompts in one forward pass.
        cache_gb: vision output that is remembered between calls.
    """

    def __init__(
        self, model: Any, processor: Any, batch_size: int = 16, cache_gb: float = 1.0
    ) -> None:
        self.model, self.processor = model, processor
        self.batch_size = batch_size
        self._hooks = hooks_of(self._backbone, processor)
        self._pictures = ImageFeatures(model, processor, cache_gb)

    def tokenize(self, prompts: Sequence[Prompt]) -> list[PromptTokens]:
        """Return the tokens of prompts, each placeholder replaced by its picture's block."""
        if not prompts:
            return []
        if self._hooks.layout is None:
            rows = [plain_inputs(self.processor, [prompt])["input_ids"][0] for prompt in prompts]
            return [
                PromptTokens(ids, torch.zeros_like(ids), (), prompt)
                for ids, prompt in zip(rows, prompts, strict=True)
            ]
        rows = token_ids(self.processor, prompts)
        seen = self._pictures.see([prompt.pictures for prompt in prompts])
        numbers: dict[tuple[bytes, int], int] = {}
        return [
            self._place(row, prompt, pictures, numbers)
            for row, prompt, pictures in zip(rows, prompts, seen, strict=True)
        ]

    def logits(
        self, prompts: Sequence[PromptTokens]
    ) -> Iterator[tuple[list[int], Float[Tensor, "batch vocab"]]]:
        """Yield places of prompts and their next-token logits, until all prompts are done.

        Args:
            prompts: the more they begin alike, the less is computed.
        """
        if self._hooks.layout is None:
            yield from self._plain(prompts)
            return
        # A family that puts images first begins differently with every number of them.
        places = sorted(range(len(prompts)), key=lambda p: (len(prompts[p].seen), len(prompts[p])))
        for _, group in itertools.groupby(places, key=lambda place: len(prompts[place].seen)):
            chosen = list(group)
            shared = shared_length([prompts[place] for place in chosen])
            if shared < SHORTEST or len(chosen) == 1 or self._hooks.cache is None:
                shared = 0
            cache = self._prefill(prompts[chosen[0]], shared) if shared else None
            for start in range(0, len(chosen), self.batch_size):
                batch = chosen[start : start + self.batch_size]
                yield batch, self._continue([prompts[place] for place in batch], shared, cache)

    @torch.inference_mode()
    def _plain(
        self, prompts: Sequence[PromptTokens]
    ) -> Iterator[tuple[list[int], Float[Tensor, "batch vocab"]]]:
        """Do the same with nothing shared and nothing remembered."""
        places = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
        for start in range(0, len(places), self.batch_size):
            batch = places[start : start + self.batch_size]
            asked = [p for place in batch if (p := prompts[place].prompt) is not None]
            inputs = plain_inputs(self.processor, asked)
            moved = {name: value.to(self.model.device) for name, value in inputs.items()}
            yield batch, self.model.get_output_embeddings()(plain_hidden(self._backbone, moved))

    def _place(
        self,
        row: list[int],
        prompt: Prompt,
        seen: list[ImageBlock],
        numbers: dict[tuple[bytes, int], int],
    ) -> PromptTokens:
        marked = []
        for count, (picture, block) in enumerate(zip(prompt.pictures, seen, strict=True)):
            # By place too: the same image twice in a row is still two blocks.
            number = numbers.setdefault((picture.key, count), len(numbers) + 1)
            is_image = block.tokens == self._pictures.token_id
            marked.append((block.tokens, is_image.long() * number))
        ids, owner = place_blocks(row, marked, self._pictures.token_id, outside=0)
        return PromptTokens(ids, owner, tuple(seen))

    @torch.inference_mode()
    def _prefill(self, tokens: PromptTokens, length: int) -> Any:
        """Return the keys and values of a beginning."""
        return keys_and_values(self._backbone, self._hooks, self._stretch([tokens], 0, length))

    @torch.inference_mode()
    def _continue(
        self, rows: Sequence[PromptTokens], shared: int, cache: Any | None
    ) -> Float[Tensor, "batch vocab"]:
        rest = self._stretch(rows, shared, max(map(len, rows)))
        if cache is None:
            hidden = hidden_states(self._backbone, self._hooks, rest.images, None, rest.inputs)
        else:
            one_group = torch.zeros(len(rows), dtype=torch.long, device=self.model.device)
            # The model appends to the cache it is given, and this one serves other batches, too.
            own = copy.deepcopy(cache)
            hidden = continued(self._backbone, self._hooks, own, one_group, rest)
        last = torch.tensor([len(row) - shared - 1 for row in rows], device=hidden.device)
        ends = hidden[torch.arange(len(rows), device=hidden.device), last]
        return self.model.get_output_embeddings()(ends)

    def _stretch(self, rows: Sequence[PromptTokens], start: int, stop: int) -> Stretch:
        """Return positions `start` to `stop` of prompts; those before are in the cache.

        Rows are padded on the right: attention is causal, so padding changes nothing before it.
        """
        device = self.model.device
        width = max(map(len, rows))
        # The assistant header's last token: any but the image token, which models count.
        ids = rows[0].ids[-1].repeat(len(rows), width)
        mask = torch.zeros(len(rows), width, dtype=torch.long)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = row.ids
            mask[number, : len(row)] = 1
        ids, mask = ids.to(device), mask.to(device)
        inside = [seen for row in rows for seen in _within(row, start, stop)]
        inputs = {
            "input_ids": ids[:, start:stop],
            "attention_mask": mask[:, :stop],
            "position_ids": self._positions(rows, ids, mask)[..., start:stop],
        }
        return Stretch(inputs, vision_output(inside) if inside else None)

    @property
    def _backbone(self) -> Any:
        return getattr(self.model, self.model.base_model_prefix)

    def _positions(self, rows: Sequence[PromptTokens], ids: Tensor, mask: Tensor) -> Tensor:
        grids = [seen.grid for row in rows for seen in row.seen if seen.grid is not None]
        is_image = (ids == self._pictures.token_id).int()
        joined = torch.stack(grids).to(ids.device) if grids else None
        return position_ids(self._backbone, ids, mask, is_image, joined)


def shared_length(rows: Sequence[PromptTokens]) -> int:
    """Return how many tokens all rows begin with in common; at least one of each stays outside.

    Image tokens are equal where they show the same image. No image is cut: where rows differ
    in an image, they differ from its first token on.
    """
    shortest = min(map(len, rows))
    ids = torch.stack([row.ids[:shortest] for row in rows])
    owners = torch.stack([row.owner[:shortest] for row in rows])
    one_group = torch.zeros(len(rows), dtype=torch.long)
    lengths = torch.full((len(rows),), shortest)
    return int(shared_lengths(ids, owners, lengths, one_group, one_group[:1]))


def _within(row: PromptTokens, start: int, stop: int) -> list[ImageBlock]:
    """Return the images whose tokens lie in a part of a prompt; none lies in two parts."""
    counts = [len(seen.features) for seen in row.seen]
    before = int((row.owner[:start] > 0).sum())
    until = int((row.owner[:stop] > 0).sum())
    ends = list(itertools.accumulate(counts))
    inside = [
        seen
        for seen, count, end in zip(row.seen, counts, ends, strict=True)
        if before <= end - count and end <= until
    ]
    assert sum(len(seen.features) for seen in inside) == until - before, "a picture was cut"
    return inside
