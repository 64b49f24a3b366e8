"""Rows, masks, batches and whole runs of the contrast stage on a small drawn data set."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.utils.checkpoint import checkpoint

from tests.families import FAMILIES, build_family
from tests.train.folder import FolderBuilder, drawn_folder
from unime.core.errors import DataError, ModelError
from unime.core.provenance import open_output
from unime.data.data_folder import DataFolder
from unime.data.known_positives import KnownPositives, content_numbers
from unime.data.tables import ROWS, write_table
from unime.data.training_rows import PairColumns, TrainingRows
from unime.models.embedder import Embedder
from unime.models.inputs import ModelInput
from unime.models.model_config import ModelConfig
from unime.train import contrast
from unime.train.backends import DataParallelRunner
from unime.train.batch import Batch, ContrastIndices, ItemSizes
from unime.train.chunking import ChunkBudget
from unime.train.contrast import ContrastRecipe
from unime.train.contrast_batches import ContrastLayout
from unime.train.dev_set import hit_at_1
from unime.train.loader import BatchSource
from unime.train.sampler import TaskBatches


def no_features(encodes: Sequence[ModelInput]) -> dict:
    """Prepare inputs without a model: a chunk's encodes are its features."""
    return {"encodes": list(encodes)}


def make_source(data: DataFolder, batch_size: int, rows: TrainingRows | None = None, **values):
    rows, columns = rows or TrainingRows.own(data, 4), PairColumns.of(data)
    layout = ContrastLayout(
        data=data,
        columns=columns,
        rows=rows,
        batches=TaskBatches(rows.by_task(columns), batch_size, 0),
        known=KnownPositives(data, content_numbers(data.items)),
        sizes=ItemSizes(data, ModelConfig(id="x")),
        random_labels=5,
        masked=values.get("masked", True),
    )
    return BatchSource(layout, values.get("features", no_features), ChunkBudget())


def encodes_of(batch: Batch) -> list[ModelInput]:
    """The distinct encodes in their order in the batch."""
    placed: dict[int, Any] = {
        int(place): encode
        for chunk in batch.chunks
        for place, encode in zip(chunk.places, chunk.features["encodes"], strict=True)
    }
    assert sorted(placed) == list(range(len(placed)))
    return [placed[place] for place in range(len(placed))]


def indices_of(batch: Batch) -> ContrastIndices:
    assert isinstance(batch.indices, ContrastIndices)
    return batch.indices


def batch_of(source: BatchSource, task: str) -> Batch:
    number = next(n for n in range(50) if source.batches[n].task == task)
    return source[number]


def test_class_names_are_encoded_once_and_masked_where_right(tmp_path):
    source = make_source(drawn_folder(tmp_path / "d"), 16)
    batch = batch_of(source, "colour")
    encodes, indices = encodes_of(batch), indices_of(batch)
    width = indices.allowed.shape[1]
    labels = [encode.text for encode in encodes[-width:]]
    assert len(set(labels)) == len(labels) < 16
    # Three pictures share a colour, so a colour is no negative of any of them.
    for row in range(16):
        blocked = (~indices.allowed[row]).nonzero().flatten().tolist()
        assert blocked == [int(indices.positive[row])]


def test_both_captions_of_a_picture_are_masked_and_take_turns_as_positive(tmp_path):
    source = make_source(drawn_folder(tmp_path / "d"), 20)
    seen = set()
    for number in range(20):
        if source.batches[number].task != "i2t":
            continue
        batch = source[number]
        indices, encodes = indices_of(batch), encodes_of(batch)
        texts = [encode.text for encode in encodes[-indices.allowed.shape[1] :]]
        seen |= set(texts)
        assert torch.equal(indices.allowed.sum(1), torch.full((20,), 19))
    assert len(seen) == 40


def test_without_masks_all_but_the_own_positive_are_negatives(tmp_path):
    data = drawn_folder(tmp_path / "d")
    masked = make_source(data, 20)
    source = make_source(data, 20, masked=False)
    batch = batch_of(source, "i2t")
    indices = indices_of(batch)
    width = indices.allowed.shape[1]
    # Both captions of a picture are in the batch; only the one that is the row's positive is none.
    assert torch.equal(indices.allowed.sum(1), torch.full((20,), width - 1))
    assert not indices.allowed.gather(1, indices.positive[:, None]).any()
    assert batch.counts["masked_known_positive"] == 0
    assert batch_of(masked, "i2t").counts["masked_known_positive"] >= 0


def test_without_masks_another_rows_equal_positive_is_a_negative(tmp_path):
    builder = FolderBuilder(tmp_path / "d")
    for number in range(6):
        label = builder.item(f"label {number % 2}")
        builder.pair("t", builder.item(f"query {number}"), [label])
    data = builder.write()
    batch = make_source(data, 6)[0]
    assert len(encodes_of(batch)) == 6 + 2
    assert torch.equal(indices_of(batch).allowed.sum(1), torch.ones(6, dtype=torch.int64))
    batch = make_source(data, 6, masked=False)[0]
    assert len(encodes_of(batch)) == 6 + 6
    assert torch.equal(indices_of(batch).allowed, ~torch.eye(6, dtype=torch.bool))


def test_same_content_under_two_instructions_is_two_encodes_and_one_mask(tmp_path):
    builder = FolderBuilder(tmp_path / "d")
    target = builder.item("the target")
    for number in range(4):
        builder.pair(
            "t",
            builder.item(f"query {number}"),
            [target],
            target_instruction=f"way {number % 2}",
        )
    batch = make_source(builder.write(), 4)[0]
    assert [e.text for e in encodes_of(batch)].count("the target") == 2
    assert not indices_of(batch).allowed.any()


def test_without_in_batch_only_own_negatives_count(tmp_path):
    data = drawn_folder(tmp_path / "d", in_batch={"colour": False})
    rows = TrainingRows.own(data, 4)
    colours = [i for i in range(len(data.items)) if data.items.item(i).text in ("red", "white")]
    negatives = np.full((len(rows.pair), 2), -1, dtype=np.int32)
    negatives[:, 0], negatives[::2, 1] = colours[0], colours[1]
    scores = np.full((len(rows.pair), 3), np.nan, dtype=np.float32)
    batch = batch_of(make_source(data, 8, TrainingRows(rows.pair, negatives, scores)), "colour")
    indices, encodes = indices_of(batch), encodes_of(batch)
    texts = [encode.text for encode in encodes[-indices.allowed.shape[1] :]]
    for row in range(8):
        allowed = {texts[i] for i in indices.allowed[row].nonzero().flatten().tolist()}
        named = {texts[int(i)] for i in indices.negatives[row] if i >= 0}
        assert allowed == named - {texts[int(indices.positive[row])]}


def test_without_in_batch_and_negatives_random_labels_are_drawn(tmp_path):
    source = make_source(drawn_folder(tmp_path / "d", in_batch={"colour": False}), 8)
    indices = indices_of(batch_of(source, "colour"))
    assert indices.negatives.shape == (8, 5)
    assert indices.allowed.sum(1).min() >= 4
    assert not indices.allowed.gather(1, indices.positive[:, None]).any()


def test_batches_are_equal_when_asked_again(tmp_path):
    data = drawn_folder(tmp_path / "d")
    first, again = make_source(data, 8)[5], make_source(data, 8)[5]
    assert first.name == again.name
    assert [(e.text, e.side) for e in encodes_of(first)] == [
        (e.text, e.side) for e in encodes_of(again)
    ]
    assert torch.equal(indices_of(first).allowed, indices_of(again).allowed)


def test_two_processes_prepare_one_batch_between_them(tmp_path, monkeypatch):
    data = drawn_folder(tmp_path / "d")
    whole = make_source(data, 8)[1]
    shares = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", "2")
        shares.append(make_source(data, 8)[1])
    assert shares[0].name == shares[1].name == whole.name
    for share in shares:
        assert torch.equal(indices_of(share).allowed, indices_of(whole).allowed)
        assert len(share.chunks) == len(shares[0].chunks)
    places = [p for share in shares for chunk in share.chunks for p in chunk.places.tolist()]
    assert sorted(places) == list(range(len(encodes_of(whole))))
    assert [p.tolist() for p in shares[0].gather.places] == [
        [p for chunk in share.chunks for p in chunk.places.tolist()] for share in shares
    ]


def test_hit_at_1_counts_ties_against_and_leaves_other_positives_out():
    gold = np.array([[True, False, False]] * 4)
    allowed = np.array([[False, True, True]] * 3 + [[False, False, True]])
    similarity = np.array([[0.9, 0.1, 0.2], [0.5, 0.5, 0.1], [0.1, 0.2, 0.3], [0.5, 0.9, 0.1]])
    assert hit_at_1(similarity, gold, allowed) == 0.5


def test_own_negatives_and_scores_are_taken_from_the_pairs(tmp_path):
    builder = FolderBuilder(tmp_path / "d")
    a, b, c, d = (builder.item(text) for text in "abcd")
    builder.pair("t", a, [b], negatives=[c, d], scores=[0.9, 0.2, 0.1])
    builder.pair("t", b, [c], negatives=[d])
    rows = TrainingRows.own(builder.write(), 8)
    assert rows.negatives.tolist() == [[c, d], [d, -1]]
    assert rows.scores[0].tolist() == pytest.approx([0.9, 0.2, 0.1])
    assert np.isnan(rows.scores[1]).all()


def test_soft_labels_without_scores_are_refused(tmp_path):
    drawn_folder(tmp_path / "d")
    recipe = small_recipe(tmp_path, losses=[{"name": "soft_label"}])
    with pytest.raises(DataError, match="needs judge scores, but no row of"):
        contrast.run(recipe, open_output(recipe, {}))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_passes_through(family, tmp_path):
    """Two steps with judged rows, soft labels, an adapter with dropout, and several chunks."""
    data = drawn_folder(tmp_path / "d")
    pair = data.split("train")
    others = np.stack(
        [np.roll([data.pair(p).positives[0] for p in pair.tolist()], k) for k in (3, 6)], 1
    )
    table = {
        "pair": pair,
        "negatives": others.tolist(),
        "scores": [[0.9, 0.3, math.nan]] * len(pair),
    }
    write_table(tmp_path / "rows" / "rows.parquet", pa.table(table, schema=ROWS))
    recipe = small_recipe(
        tmp_path,
        family=family,
        rows=str(tmp_path / "rows"),
        losses=[{"name": "info_nce"}, {"name": "soft_label", "weight": 0.5}],
        budget={"items": 5},
        tune={"parts": ["language", "projector"], "r": 4, "lora_dropout": 0.1},
        training={"per_device_train_batch_size": 6, "max_steps": 2, "learning_rate": 1e-3,
                  "eval_steps": 2, "save_steps": 2, "logging_steps": 1},
    )  # fmt: skip
    contrast.run(recipe, open_output(recipe, {}))
    lines = [json.loads(x) for x in (tmp_path / "out/train.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2]
    assert all(math.isfinite(line["soft_label"]) for line in lines if "loss" in line)
    trained = Embedder.load(ModelConfig(id=str(tmp_path / "out/model")), "cpu")
    before = Embedder.load(recipe.model, "cpu")
    texts = [ModelInput("a red circle"), ModelInput("a green square")]
    assert not np.allclose(trained.encode(texts), before.encode(texts), atol=1e-6)
    assert not (tmp_path / "out/checkpoints").exists()


def small_recipe(folder: Path, family: str = "qwen2_vl", **values) -> ContrastRecipe:
    build_family(family, folder / "base")
    values.setdefault("training", {"max_steps": 1})
    return ContrastRecipe(
        stage="contrast",
        output=str(folder / "out"),
        model=ModelConfig(id=str(folder / "base")),
        data=str(folder / "d"),
        **values,
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tune", [{"parts": ["language"], "r": 2}, {"method": "full"}])
def test_checkpointing_computes_layers_again_and_changes_no_loss(
    family, tune, tmp_path, monkeypatch
):
    drawn_folder(tmp_path / "d")
    used = count_checkpoints(monkeypatch)

    def losses(checkpointing: bool) -> list[float]:
        training = {"global_batch_size": 6, "max_steps": 3, "learning_rate": 1e-2,
                    "logging_steps": 1, "gradient_checkpointing": checkpointing}  # fmt: skip
        recipe = small_recipe(
            tmp_path, family, tune=tune, training=training, budget={"items": 4}, dev_queries=0
        ).model_copy(update={"output": str(tmp_path / str(checkpointing))})
        contrast.run(recipe, open_output(recipe, {}))
        lines = (tmp_path / str(checkpointing) / "train.jsonl").read_text().splitlines()
        return [json.loads(line)["loss"] for line in lines]

    expected = losses(checkpointing=False)
    assert not used
    assert losses(checkpointing=True) == pytest.approx(expected, rel=1e-4)
    assert used


def count_checkpoints(monkeypatch) -> list[bool]:
    """Return a list that grows by one with every call under checkpointing."""
    used: list[bool] = []
    plain = checkpoint

    def counted(*arguments, **options):
        used.append(True)
        return plain(*arguments, **options)

    monkeypatch.setattr("transformers.modeling_utils.checkpoint", counted)
    return used


def test_an_out_of_memory_error_halves_the_chunks_and_repeats_the_step(tmp_path, monkeypatch):
    """The result is that of the run that had small chunks from the beginning."""
    drawn_folder(tmp_path / "d")
    training = {"global_batch_size": 6, "max_steps": 2, "learning_rate": 1e-3, "logging_steps": 1}

    def losses(items: int, name: str) -> list[float]:
        recipe = small_recipe(tmp_path, budget={"items": items}, training=training, dev_queries=0)
        recipe = recipe.model_copy(update={"output": str(tmp_path / name)})
        contrast.run(recipe, open_output(recipe, {}))
        lines = (tmp_path / name / "train.jsonl").read_text().splitlines()
        return [json.loads(line)["loss"] for line in lines]

    expected = losses(3, "small")
    plain = DataParallelRunner.forward

    def limited(self, features):
        if len(features["input_ids"]) > 3:
            raise torch.OutOfMemoryError("as on a small GPU")
        return plain(self, features)

    monkeypatch.setattr(DataParallelRunner, "forward", limited)
    assert losses(12, "large") == pytest.approx(expected, rel=1e-5)


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_rows(tmp_path, monkeypatch):
    drawn_folder(tmp_path / "d")
    recipe = small_recipe(tmp_path, training={"global_batch_size": 6, "max_steps": 2})
    plain = DataParallelRunner.forward

    def broken(self, features):
        out = plain(self, features)
        return {**out, "sentence_embedding": out["sentence_embedding"] * float("nan")}

    monkeypatch.setattr(DataParallelRunner, "forward", broken)
    with pytest.raises(ModelError, match="the loss is nan at step 1; its rows are in"):
        contrast.run(recipe, open_output(recipe, {}))
    saved = json.loads((tmp_path / "out/bad_batch.json").read_text())
    assert saved["step"] == 1
    assert "pairs [" in saved["batch"]
