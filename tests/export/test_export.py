"""An exported model gives the trained model's embeddings where this package does not exist."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.families import FAMILIES, build_family
from tests.models.test_adapters import scramble_adapters
from unime.core.errors import ModelError
from unime.core.stage import execute
from unime.export import other_loaders as elsewhere
from unime.export.lineage import manifest_chain
from unime.export.other_loaders import job_of, run_elsewhere
from unime.export.probe_inputs import probes
from unime.export.stage import ExportRecipe, export_embedder
from unime.export.verify import SEAL, compare, verify_folder
from unime.models.adapters import LoraSection, train_parts
from unime.models.embedder import Embedder
from unime.models.model_config import ModelConfig
from unime.models.template import unwrap_template

PROMPTS = {"qwen2_vl": "embed/plain.v1", "smolvlm": "embed/one_word.v1"}
"""Families that are exported a second time, with another prompt than the default."""


def trained(name: str, folder: Path, **changes: str) -> ModelConfig:
    """Save a model with merged adapters, as a training stage does; return its section."""
    start = build_family(name, folder / "start")
    settings: dict[str, Any] = {"max_length": 200, "max_pixels": 4096, "min_pixels": 784}
    settings |= changes
    embedder = Embedder.load(ModelConfig(id=str(start), **settings), "cpu")
    train_parts(embedder.backbone, LoraSection(parts=["language", "vision", "projector"], r=2))
    scramble_adapters(embedder)
    embedder.save(folder / "model")
    return ModelConfig(id=str(folder / "model"), **settings)


def exported(name: str, folder: Path, **changes: str) -> Path:
    """Train and export a family; return the exported folder."""
    config = trained(name, folder, **changes)
    target = folder / "embedder"
    target.mkdir()
    embedder = Embedder.load(config, "cpu")
    export_embedder(embedder, target, ExportRecipe(output="unused", model=config))
    return target


def test_clean_process_gives_the_trained_models_embeddings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All five families in one clean process: starting it is what takes long."""
    folders = [exported(name, tmp_path / name) for name in FAMILIES]
    folders += [exported(n, tmp_path / f"{n}-other", prompt=p) for n, p in PROMPTS.items()]
    jobs = []
    for folder in folders:
        (folder.parent / "pictures").mkdir()
        facts = json.loads((folder / "unime.json").read_text())
        embedder = Embedder.load(ModelConfig(id=str(folder), **facts["model"]), "cpu")
        jobs.append(job_of(embedder, folder, probes(embedder), folder.parent / "pictures"))
    results = dict(zip(map(str, folders), run_elsewhere(jobs), strict=True))
    monkeypatch.setattr(elsewhere, "run_elsewhere", lambda jobs, _: [results[jobs[0]["folder"]]])
    for folder in folders:
        report = verify_folder(folder.parent)  # finds embedder/ in a stage's output
        cosines = [float(line.split()[0]) for line in report.splitlines()[1:-2]]
        assert 34 <= len(cosines) <= 35
        assert set(json.loads((folder / SEAL).read_text())["worst_cosine"]) == {
            "unime", "sentence-transformers", "transformers"
        }  # fmt: skip
        assert cosines == sorted(cosines)
        assert min(cosines) >= 0.9999
        assert {path.suffix for path in folder.rglob("*") if path.is_file()} <= {
            ".json", ".jinja", ".md", ".safetensors"
        }  # fmt: skip


@pytest.fixture
def export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A correct export, with the clean process left out for speed."""
    monkeypatch.setattr(elsewhere, "in_clean_process", lambda *_: {})
    folder = exported("qwen2_vl", tmp_path)
    verify_folder(folder)
    return folder


def edit_json(name: str, *keys: str, value: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        place = content
        for key in keys[:-1]:
            place = place[key]
        assert place[keys[-1]] != value
        place[keys[-1]] = value
        (folder / name).write_text(json.dumps(content))

    return edit


def use_the_familys_own_template(folder: Path) -> None:
    path = folder / "chat_template.jinja"
    path.write_text(unwrap_template(path.read_text()))


def drop_the_system_text(folder: Path) -> None:
    path = folder / "chat_template.jinja"
    path.write_text(path.read_text().replace("not parts", "true"))


def change_a_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("layers.0.mlp.down_proj.weight"))
    weights[name] = -weights[name]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def add_a_pickle(folder: Path) -> None:
    torch.save({}, folder / "extra.pt")


def cut_off_the_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def forget_a_prompt(folder: Path) -> None:
    path = folder / "config_sentence_transformers.json"
    content = json.loads(path.read_text())
    del content["prompts"]["query"]
    path.write_text(json.dumps(content))


def ask_for_code(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "auto_map": {"AutoModel": "x.Y"}}))


def halve_the_precision(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    halved = {name: weight.half() for name, weight in weights.items()}
    save_file(halved, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (edit_json("tokenizer_config.json", "padding_side", value="left"), "padding_side is left"),
        (
            edit_json("config_sentence_transformers.json", "prompts", "query", value="Hello."),
            "prompts.query is 'Hello.', expected 'You turn",
        ),
        (edit_json("1_Pooling/config.json", "pooling_mode", value="mean"), "pooling_mode is mean"),
        (
            edit_json("processor_config.json", "image_processor", "image_mean", value=[0, 0, 0]),
            "preprocessing: image.image_mean",
        ),
        (use_the_familys_own_template, "does not end in the generation prompt"),
        (drop_the_system_text, "query prompt appears 0 times"),
        (change_a_weight, "over unime: cosine"),
        (add_a_pickle, "extra.pt may hold a pickle"),
        (cut_off_the_weights, "model.safetensors is truncated: [0-9]+ bytes, its header announces"),
        (forget_a_prompt, "the prompt 'query' is missing, expected 'You turn"),
        (ask_for_code, "auto_map asks for code"),
        (halve_the_precision, "weights are stored as F16, expected F32"),
        (
            edit_json(
                "sentence_bert_config.json", "processing_kwargs", "text", "max_length", value=120
            ),
            "texts are cut at 120 tokens, expected 200",
        ),
    ],
)
def test_tampering_is_caught(export: Path, tamper: Callable[[Path], None], message: str) -> None:
    tamper(export)
    with pytest.raises(ModelError, match=message):
        verify_folder(export)


def test_what_only_other_libraries_read_is_caught_in_the_clean_process(tmp_path: Path) -> None:
    folder = exported("qwen2_vl", tmp_path)
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["path"] = "elsewhere"
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "elsewhere").mkdir()
    pooling = json.loads((folder / "1_Pooling/config.json").read_text())
    pooling["pooling_mode"] = "mean"
    (folder / "elsewhere/config.json").write_text(json.dumps(pooling))
    with pytest.raises(ModelError, match="over sentence-transformers: cosine"):
        verify_folder(folder)
    assert not (folder / SEAL).exists()


def test_no_export_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="unime.json is missing; expected a folder written by"):
        verify_folder(tmp_path)


def test_worst_comes_first_and_nan_before_all(export: Path) -> None:
    content = json.loads((export / "unime_probes.json").read_text())
    content["image"] = [float("nan")] * len(content["image"])
    content["text"] = [-value for value in content["text"]]
    (export / "unime_probes.json").write_text(json.dumps(content))
    embedder = Embedder.load(ModelConfig(id=str(export), max_length=200), "cpu")
    worst = compare(embedder, export)[:2]
    assert [c.probe for c in worst] == ["image", "text"]
    assert np.isnan(worst[0].cosine) and worst[1].cosine < 0


def write_recipe(folder: Path, config: ModelConfig, **changes: object) -> Path:
    path = folder / "8_export.yaml"
    model = {"id": config.id, "max_length": 200, "max_pixels": 4096, "min_pixels": 784}
    recipe = {"stage": "export", "output": str(folder / "8_export"), "model": model | changes}
    path.write_text(json.dumps(recipe | {"license": "apache-2.0"}))
    return path


def test_the_stage_keeps_what_was_trained(tmp_path: Path) -> None:
    config = trained("smolvlm", tmp_path)
    recipe = write_recipe(tmp_path, config, prompt="embed/plain.v1")
    with pytest.raises(ModelError, match="prompt: 'embed/hierarchical.v1' there"):
        execute("unime.export.stage", recipe, restart=True)
    execute("unime.export.stage", write_recipe(tmp_path, config), restart=True)
    out = tmp_path / "8_export"
    manifest = json.loads((out / "manifest.json").read_text())
    facts = json.loads((out / "embedder/unime.json").read_text())
    assert manifest["facts"]["fingerprint"] == facts["fingerprint"]
    assert set(facts["rendered"]) == {"query", "document"}
    card = (out / "embedder/README.md").read_text()
    assert 'license: "apache-2.0"' in card
    assert "`INSTRUCTION\\nTEXT`" in card
    assert "{{" not in card and "{%" not in card
    assert "The licence of base is not stated" in card


def test_chain_follows_the_models_a_model_came_from(tmp_path: Path) -> None:
    def stage(name: str, start: str) -> str:
        (tmp_path / name).mkdir()
        manifest = {"recipe": {"stage": name, "model": {"id": start}}}
        (tmp_path / name / "manifest.json").write_text(json.dumps(manifest))
        return str(tmp_path / name / "model")

    last = stage("6_contrast", stage("2_warmup", stage("1_distill", "a/hub-model")))
    chain = manifest_chain(Path(last))
    assert [link["folder"] for link in chain] == ["6_contrast", "2_warmup", "1_distill"]
    assert all(len(link["sha256"]) == 64 for link in chain)
