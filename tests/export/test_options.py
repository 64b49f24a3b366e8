"""What an export may be asked for: shards, a storage type, the adapter alone, short vectors, a card."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from tests.export.test_export import trained
from tests.families import build_family
from tests.models.inputs import mixed
from tests.models.test_adapters import scramble_adapters
from unime.core import files
from unime.core.errors import DataError, ModelError, OutputError
from unime.export import folder_checks as checks
from unime.export import short_vectors
from unime.export.card import licence_chain, result_row, warnings, write_card
from unime.export.stage import ExportRecipe, export_embedder
from unime.models.adapters import LoraSection, combine_adapters, train_parts
from unime.models.embedder import Embedder
from unime.models.model_config import ModelConfig


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    return trained("qwen2_vl", tmp_path_factory.mktemp("trained"))


def export(model: ModelConfig, folder: Path, **options: object) -> dict:
    """Export, and return the facts."""
    folder.mkdir()
    recipe = ExportRecipe.model_validate({"output": "unused", "model": model, **options})
    export_embedder(Embedder.load(model, "cpu"), folder, recipe)
    return files.read_json(folder / "unime.json")


def test_shards_are_complete_and_a_missing_or_cut_one_is_named(model: ModelConfig, tmp_path: Path):
    folder = tmp_path / "export"
    facts = export(model, folder, max_shard_size="200KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 2
    assert checks.damage(folder) == [] == checks.settings(folder, facts)
    whole = shards[1].read_bytes()
    shards[1].write_bytes(whole[:-7])
    (problem,) = checks.damage(folder)
    assert problem.startswith(f"{shards[1].name} is truncated: {len(whole) - 7} bytes")
    shards[1].unlink()
    (problem,) = checks.damage(folder)
    assert problem.startswith(f"{shards[1].name} is missing, the index names it for")


def test_weights_are_stored_as_asked(model: ModelConfig, tmp_path: Path):
    facts = export(model, tmp_path / "export", dtype="bfloat16", matryoshka_dims=[8, 16])
    assert facts["preprocessing"]["dtype"] == facts["model"]["dtype"] == "bfloat16"
    assert checks.settings(tmp_path / "export", facts) == []
    config = files.read_json(tmp_path / "export" / "config.json")
    assert config["is_matryoshka"]
    assert config["matryoshka_dimensions"] == [16, 8, 32]


def test_a_length_that_is_none_is_refused(model: ModelConfig, tmp_path: Path):
    with pytest.raises(ModelError, match="matryoshka_dims: 32 is not below the embedding's 32"):
        export(model, tmp_path / "export", matryoshka_dims=[32])


def test_adapters_of_two_stages_are_one_adapter_of_the_base(tmp_path: Path):
    from peft import PeftModel

    base = str(build_family("qwen3_vl", tmp_path / "base"))
    start, folders = base, []
    for stage, rank in (("first", 2), ("second", 3)):
        torch.manual_seed(rank)
        embedder = Embedder.load(ModelConfig(id=start, max_length=200), "cpu")
        train_parts(embedder.backbone, LoraSection(parts=["language"], r=rank))
        scramble_adapters(embedder)
        embedder.save(tmp_path / stage)
        start = str(tmp_path / stage)
        folders.append(tmp_path / stage)
    combine_adapters(folders, base, tmp_path / "adapter")
    adapted = Embedder.load(ModelConfig(id=base, max_length=200), "cpu")
    inputs = mixed()
    before = adapted.encode(inputs)
    PeftModel.from_pretrained(adapted.backbone, str(tmp_path / "adapter"))
    expected = Embedder.load(ModelConfig(id=start, max_length=200), "cpu").encode(inputs)
    assert np.abs(before - expected).max() > 0.01
    np.testing.assert_allclose(adapted.encode(inputs), expected, atol=2e-5)


def test_full_training_leaves_no_adapter_to_export(tmp_path: Path):
    with pytest.raises(ModelError, match="no adapter to export; set adapter: false"):
        combine_adapters([tmp_path], "base", tmp_path / "adapter")


def probe(rows: int = 60, dim: int = 32) -> short_vectors.CalibrationSet:
    rng = np.random.default_rng(0)
    targets = short_vectors.truncate(rng.standard_normal((rows, dim)), dim)
    queries = short_vectors.truncate(targets + 0.02 * rng.standard_normal((rows, dim)), dim)
    return short_vectors.CalibrationSet(queries, targets, np.eye(rows, dtype=bool))


def test_costs_are_measured_for_every_length_and_precision(tmp_path: Path):
    short_vectors.save(probe(), [16, 4], tmp_path)
    found = {(c.dim, c.precision): c for c in short_vectors.costs(tmp_path)}
    assert list(found) == [(d, p) for d in (32, 16, 4) for p in short_vectors.PRECISIONS]
    assert found[32, "float32"].hit == found[32, "int8"].hit == 1.0
    assert [found[32, p].bytes for p in short_vectors.PRECISIONS] == [128, 32, 4]
    # Four bits cannot tell sixty targets apart, and a tie is no hit.
    assert found[4, "binary"].hit < 0.2 < found[4, "float32"].hit
    assert len(short_vectors.report(list(found.values()))) == 10
    assert short_vectors.report([]) == []


def test_int8_similarities_are_close_to_the_whole_ones(tmp_path: Path):
    some = probe()
    ranges = np.stack([some.targets.min(axis=0), some.targets.max(axis=0)])
    got = short_vectors.similarities(some.queries, some.targets, "int8", ranges)
    np.testing.assert_allclose(got, some.queries @ some.targets.T, atol=0.02)


def test_a_damaged_calibration_is_named(tmp_path: Path):
    (tmp_path / short_vectors.FILE).write_bytes(b"nonsense")
    with pytest.raises(ModelError, match=r"short_vectors.safetensors is damaged"):
        short_vectors.costs(tmp_path)


def test_a_non_commercial_link_is_flagged_and_an_unknown_one_too():
    facts = {
        "card": {
            "licenses": {"teacher": "cc-by-nc-4.0", "base": "apache-2.0"},
            "base_model": "a/b",
        },
        "made": {"base": "x", "teacher": "nvidia/NV-Embed-v2", "judge": "a/judge", "data": []},
    }
    links = licence_chain(facts)
    assert [(link.name, link.license) for link in links] == [
        ("base", "apache-2.0"), ("teacher", "cc-by-nc-4.0"), ("judge", "not stated")
    ]  # fmt: skip
    non_commercial, unknown = warnings(links, "apache-2.0")
    assert non_commercial.startswith("The teacher (nvidia/NV-Embed-v2) is licensed cc-by-nc-4.0")
    assert unknown.startswith("The licence of judge is not stated")
    assert warnings(links[:1], "apache-2.0") == []


def test_results_come_into_the_card_and_the_hubs_own_file(model: ModelConfig, tmp_path: Path):
    folder = tmp_path / "export"
    export(model, folder, benchmark="me/bench")
    row = {
        "name": "mine", "overall": 12.5, "meta_task": {"retrieval": 20.0},
        "datasets": {"dogs": 12.5}, "chance": {"overall": 1.0},
        "interval": {"overall": [10.0, 15.0]},
    }  # fmt: skip
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"rows": [row, {"name": "other", "overall": 1.0}]}))
    for _ in range(2):
        write_card(folder, result_row(path, "mine"))
    assert "| overall | 12.5 | 10.0 to 15.0 | 1.0 |" in (folder / "README.md").read_text()
    (entry,) = yaml.safe_load((folder / ".eval_results/unime.yaml").read_text())
    assert entry["dataset"] == {"id": "me/bench", "task_id": "dogs"}
    card = folder / "README.md"
    card.write_text(card.read_text().replace("## Use", "## How I use it"))
    with pytest.raises(OutputError, match="is not as `unime export` writes it"):
        write_card(folder, result_row(path, "mine"))
    assert "## How I use it" in card.read_text()
    assert entry["value"] == 12.5
    with pytest.raises(DataError, match="has no row 'mien'; did you mean 'mine'"):
        result_row(path, "mien")
