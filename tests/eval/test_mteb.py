"""mteb runs an export on a small task of its own making."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image

from tests.export.test_export import exported

mteb = pytest.importorskip("mteb", reason="the extra 'eval' is not installed")

COLOURS = ("red", "green", "blue", "yellow")


def task(retrieval: type, metadata: type):
    """Text to image over four pictures: mteb's own task class around data made here."""

    class Colours(retrieval):
        def load_data(self, *_, **__):
            images = [Image.new("RGB", (30, 30), colour) for colour in COLOURS]
            corpus = Dataset.from_dict({"id": list(COLOURS), "image": images})
            queries = Dataset.from_dict(
                {"id": list(COLOURS), "text": [f"a {c} square" for c in COLOURS]}
            )
            from datasets import Image as ImageFeature

            self.dataset = {
                "default": {
                    "test": {
                        "corpus": corpus.cast_column("image", ImageFeature()),
                        "queries": queries,
                        "relevant_docs": {c: {c: 1} for c in COLOURS},
                        "top_ranked": None,
                    }
                }
            }
            self.data_loaded = True

    Colours.metadata = metadata(
        name="Colours", description="squares", reference=None, type="Any2AnyRetrieval", category="t2i",
        modalities=["text", "image"], eval_splits=["test"], eval_langs=["eng-Latn"],
        main_score="ndcg_at_10", dataset={"path": "none", "revision": "1"}, date=None, domains=None,
        task_subtypes=None, license=None, annotations_creators=None, dialect=None,
        sample_creation=None, bibtex_citation=None, prompt={"query": "Find the square."},
    )  # fmt: skip
    return Colours()


def test_mteb_runs_an_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata

    from unime.eval.mteb import ExportedEncoder, mteb_meta

    folder = exported("qwen2_vl", tmp_path)
    meta = mteb_meta(folder.parent)
    assert meta.embed_dim == 32
    assert meta.modalities == ["text", "image"]
    model = meta.load_model()
    assert isinstance(model, ExportedEncoder)
    seen = []
    encode = model.embedder.encode
    monkeypatch.setattr(
        model.embedder, "encode", lambda encodes, *a: [seen.extend(encodes), encode(encodes, *a)][1]
    )
    results = mteb.evaluate(model, task(AbsTaskRetrieval, TaskMetadata), cache=None)
    scores = results.task_results[0].scores["test"][0]
    sides = {(e.side, e.instruction, bool(e.text), e.image is None) for e in seen}
    assert sides == {("query", "Find the square.", True, True), ("target", "", False, False)}
    # What mteb reports is what the embeddings say.
    vectors = encode(seen)
    queries = [i for i, e in enumerate(seen) if e.side == "query"]
    targets = [i for i, e in enumerate(seen) if e.side == "target"]
    found = vectors[queries] @ vectors[targets].T
    gold = [COLOURS.index(seen[i].text.split()[1]) for i in queries]
    order = [seen[i].image.getpixel((0, 0)) for i in targets]
    colours = [Image.new("RGB", (1, 1), c).getpixel((0, 0)) for c in COLOURS]
    ranks = [
        1 + int((found[q] > found[q, order.index(colours[g])]).sum()) for q, g in enumerate(gold)
    ]
    expected = float(np.mean([1 / np.log2(1 + rank) for rank in ranks]))
    assert scores["ndcg_at_10"] == pytest.approx(expected, abs=1e-4)
