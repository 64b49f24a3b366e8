"""`python -m benchmarks.rerank`: ranking 50 candidates of one query that has a picture, and training.

Beside sentence-transformers' `CrossEncoder.predict` on the same exported model, the tiny student (a
Qwen3-VL of 5 million parameters). The query's prefix (system text, picture, instruction, text) has
about 200 tokens. Scores must agree to 1e-4 before anything is timed. Training is forward and
backward of 17 questions about each of four such queries, beside the same without sharing what a
query's questions begin with.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import Seconds, interleaved_rounds, median_ratio, medians, report
from unime.export.probe_inputs import probe_image
from unime.export.reranker_export import export_reranker
from unime.models.image_blocks import KeyedImage
from unime.models.pair_scorer import PairSide
from unime.rerank import RerankConfig, Reranker, RerankModel, RerankQuestion

CANDIDATES, EDGE, BATCH = 50, 160, 16
QUERIES, ASKED = 4, 17
"""In a training step: the positive and 16 negatives, the default of `ask`."""
INSTRUCTION = "Find the caption of the picture."


def main(rounds: int = 7) -> None:
    """Export, compare scores, time in turn."""
    from sentence_transformers import CrossEncoder

    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        config = RerankConfig(
            id="assets/student", dtype="float32", min_pixels=EDGE * EDGE, max_pixels=EDGE * EDGE
        )
        model = RerankModel.load(config, "cpu")
        (folder / "export").mkdir()
        export_reranker(model, folder / "export", "benchmark")
        theirs = CrossEncoder(str(folder / "export"), device="cpu")
        ours = Reranker.load(str(folder / "export"), "cpu", BATCH)
        image = probe_image(EDGE, EDGE)
        captions = [f"a {colour} circle left of square number {n}" for n, colour in colours()]
        contestants: dict[str, Any] = {
            "CrossEncoder.predict": lambda: theirs.predict(
                [({"image": image, "text": "which?"}, {"text": caption}) for caption in captions],
                prompt=INSTRUCTION,
                batch_size=BATCH,
            ),
            # A new key every time, so that no picture is remembered from the round before.
            "Reranker.rank": lambda: (
                Reranker(ours.model, BATCH)
                .rank(query_of(image), [PairSide(caption) for caption in captions], INSTRUCTION)
                .scores
            ),
        }
        scores = {name: run() for name, run in contestants.items()}
        theirs_scores, ours_scores = scores.values()
        difference = float(np.abs(theirs_scores - ours_scores).max())
        assert difference < 1e-4, difference
        seconds = interleaved_rounds(contestants, rounds)
        question = RerankQuestion(INSTRUCTION, query_of(image), (PairSide(captions[0]),))
        length = int(ours.model.features([question])["attention_mask"].sum())
        steps, logit_difference = training(ours.model, captions, rounds)
        seconds |= steps
    report(
        "rerank",
        {
            "speedup": median_ratio(seconds, "CrossEncoder.predict", "Reranker.rank"),
            "training_speedup": median_ratio(seconds, "pair by pair", "shared"),
        },
        candidates=CANDIDATES,
        tokens_a_pair=length,
        score_difference=difference,
        logit_difference=logit_difference,
        seconds=medians(seconds),
        rounds=rounds,
    )


def training(model: RerankModel, captions: Sequence[str], rounds: int) -> tuple[Seconds, float]:
    """Time forward and backward with and without sharing; return also how far the logits differ."""
    questions = [
        RerankQuestion(
            INSTRUCTION, query_of(probe_image(EDGE, EDGE), bytes([n])), (PairSide(caption),)
        )
        for n in range(QUERIES)
        for caption in captions[:ASKED]
    ]
    features = model.features(questions)
    model.model.requires_grad_(True)

    def step(*, shares: bool) -> torch.Tensor:
        model.module.shares_prefix = shares
        model.module.zero_grad()
        logits = model.forward(features)
        logits.logsumexp(dim=1).mean().backward()
        return logits.detach()

    difference = float((step(shares=True) - step(shares=False)).abs().max())
    assert difference < 1e-3, difference
    contestants = {
        "pair by pair": partial(step, shares=False),
        "shared": partial(step, shares=True),
    }
    return interleaved_rounds(contestants, rounds), difference


def query_of(image: Any, key: bytes = b"query") -> PairSide:
    """Return the query: a picture, known by a key, and a short text."""
    return PairSide("which?", KeyedImage(key, lambda: image))


def colours() -> list[tuple[int, str]]:
    """Return fifty distinct words to make captions of."""
    names = ("red", "green", "blue", "yellow", "purple")
    return [(number, names[number % len(names)]) for number in range(CANDIDATES)]


if __name__ == "__main__":
    main()
