"""Encoding a corpus: `Embedder.encode` beside `SentenceTransformer.encode`, at equal embeddings.

python -m benchmarks.encode [--inputs 1000] [--rounds 7]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import interleaved_rounds, median_ratio, medians, report, say
from benchmarks.mixture import build_model, inputs
from unime.export.stage import ExportRecipe, export_embedder
from unime.models.embedder import Embedder
from unime.models.inputs import ModelInput

BATCH = 32


def repeated(distinct: list[ModelInput], share: float) -> list[ModelInput]:
    """Return inputs of which exactly a share repeats others."""
    count = round(len(distinct) / (1 - share))
    rng = np.random.default_rng(0)
    extra = [distinct[i] for i in rng.integers(0, len(distinct), count - len(distinct)).tolist()]
    mixed = [*distinct, *extra]
    return [mixed[i] for i in rng.permutation(count).tolist()]


def as_sentence_transformers(encodes: Sequence[ModelInput]) -> list[Any]:
    """Return the inputs the way its users write them."""
    return [
        encode.text if encode.image is None else {"text": encode.text, "image": encode.image}
        for encode in encodes
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--inputs", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args(arguments)
    from sentence_transformers import SentenceTransformer

    with tempfile.TemporaryDirectory() as folder:
        config = build_model(Path(folder) / "base")
        embedder = Embedder.load(config, "cpu")
        exported = Path(folder) / "embedder"
        exported.mkdir()
        recipe = ExportRecipe(stage="export", output=folder, model=config)
        export_embedder(embedder, exported, recipe)
        peer = SentenceTransformer(str(exported), device="cpu")
        seconds = {}
        for name, share in (("unique", 0.0), ("duplicates", 0.3)):
            chosen = repeated(inputs(options.inputs, seed=0), share)
            theirs = as_sentence_transformers(chosen)

            def encode_theirs(theirs: list[Any] = theirs) -> np.ndarray:
                return peer.encode(
                    theirs, prompt_name="query", batch_size=BATCH, show_progress_bar=False
                )

            def encode_ours(chosen: list[ModelInput] = chosen) -> np.ndarray:
                return embedder.encode(chosen, batch_size=BATCH)

            cosine = float((encode_ours() * encode_theirs()).sum(axis=1).min())
            say(f"{name}: lowest cosine {cosine:.7f}")
            assert cosine >= 0.99999, f"embeddings differ: lowest cosine {cosine}"
            seconds[name] = interleaved_rounds(
                {"ours": encode_ours, "sentence-transformers": encode_theirs}, options.rounds
            )
    report(
        "encode",
        {
            f"speedup_{name}": median_ratio(values, "sentence-transformers", "ours")
            for name, values in seconds.items()
        },
        inputs=options.inputs,
        batch_size=BATCH,
        rounds=options.rounds,
        seconds={name: medians(values) for name, values in seconds.items()},
    )


if __name__ == "__main__":
    main()
