"""A model that does not see or does not read is refused when it is loaded, in every way of using it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.families import FAMILIES, build_family
from tests.train.folder import drawn_folder
from unime.core.errors import ModelError
from unime.core.provenance import open_output
from unime.judge.transformers_engine import JudgeModel, TransformersOptions
from unime.models.embedder import Embedder
from unime.models.model_config import ModelConfig, RerankConfig
from unime.models.self_check import blindness, probe_inputs
from unime.rerank import Reranker, RerankModel
from unime.train import contrast
from unime.train.contrast import ContrastRecipe

PROJECTORS = ("merger.", "deepstack_merger_list.", "multi_modal_projector.", "connector.")

LOADERS: dict[str, Callable[[str], Any]] = {
    "embedder": lambda folder: Embedder.load(ModelConfig(id=folder, dtype="float32"), "cpu"),
    "half embedder": lambda folder: Embedder.load(ModelConfig(id=folder, dtype="bfloat16"), "cpu"),
    "reranker in training": lambda folder: RerankModel.load(RerankConfig(id=folder), "cpu"),
    "reranker": lambda folder: Reranker.load(folder, "cpu"),
    "judge": lambda folder: TransformersOptions(model=JudgeModel(id=folder)).engine(None),
}


def change(folder: Path, edit: Callable[[str, torch.Tensor], None]) -> None:
    weights = load_file(folder / "model.safetensors")
    for name, tensor in weights.items():
        edit(name, tensor)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def zero_projector(name: str, tensor: torch.Tensor) -> None:
    if any(part in name for part in PROJECTORS):
        tensor.zero_()


def equal_words(name: str, tensor: torch.Tensor) -> None:
    if name.endswith("embed_tokens.weight"):
        tensor[:] = tensor.mean(dim=0)


def backbone_of(folder: Path) -> type:
    from transformers import AutoModel

    return type(AutoModel.from_pretrained(folder))


def zeros(tower: Callable) -> Callable:
    def see(self, *arguments, **options):
        out = tower(self, *arguments, **options)
        for name in ("pooler_output", "deepstack_features"):
            value = getattr(out, name, None)
            if value is not None:
                out[name] = _zero(value)
        return out

    return see


def _zero(value: Any) -> Any:
    return type(value)(map(_zero, value)) if isinstance(value, list | tuple) else value * 0


@pytest.mark.parametrize("family", FAMILIES)
def test_an_unplugged_tower_is_refused(family, tmp_path, monkeypatch):
    folder = build_family(family, tmp_path)
    for load in LOADERS.values():
        load(str(folder))
    kind = backbone_of(folder)
    forward = kind.forward
    with monkeypatch.context() as patch:
        patch.setattr(kind, "get_image_features", zeros(kind.get_image_features))
        refused(folder, "another picture changes its output by ")
    with monkeypatch.context() as patch:
        # As transformers 5.17 did: accepted as a keyword, and ignored.
        drop = ("mm_encoder_outputs", "pixel_values")
        patch.setattr(
            kind,
            "forward",
            lambda self, *a, **k: forward(
                self, *a, **{n: v for n, v in k.items() if n not in drop}
            ),
        )
        refused(folder, "another picture changes its output by ")
    change(folder, zero_projector)
    refused(folder, "another picture changes its output by ")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_that_does_not_read_is_refused(family, tmp_path):
    folder = build_family(family, tmp_path)
    change(folder, equal_words)
    refused(folder, "another text changes its output by ")


def refused(folder: Path, problem: str) -> None:
    for name, load in LOADERS.items():
        with pytest.raises(ModelError) as error:
            load(str(folder))
        sentence = str(error.value)
        assert problem in sentence, (name, sentence)
        assert sentence.startswith(f"{folder} fails its self-check")
        assert "transformers 5." in sentence and "sentence-transformers " in sentence


def test_the_trainer_asks_the_model_as_it_is_trained(tmp_path, monkeypatch):
    """Where weights are shared out nothing could be asked before; the other processes hear of it."""
    drawn_folder(tmp_path / "d")
    folder = build_family("qwen2_vl", tmp_path / "base")
    change(folder, zero_projector)
    monkeypatch.setattr("unime.models.self_check.has_own_weights", lambda module: False)
    recipe = ContrastRecipe.model_validate(
        {
            "stage": "contrast", "output": str(tmp_path / "out"), "data": str(tmp_path / "d"),
            "model": {"id": str(folder)}, "training": {"global_batch_size": 4, "max_steps": 1},
        }
    )  # fmt: skip
    with pytest.raises(ModelError, match="another picture changes its output by "):
        contrast.run(recipe, open_output(recipe, {}))


def test_a_model_that_cannot_be_run_at_all_is_refused_too(tmp_path, monkeypatch):
    """As where a library's output lost the field that pictures come by."""
    folder = build_family("smolvlm", tmp_path)

    def see(self, *_, **__):
        raise AttributeError("no pooler_output")

    monkeypatch.setattr(backbone_of(folder), "get_image_features", see)
    refused(folder, "it ends in AttributeError: no pooler_output; either")


def test_outputs_that_are_no_numbers_or_drown_in_noise():
    rows = torch.eye(4)[:, :3].clone()
    rows[3] = rows[0]
    assert blindness(rows, torch.float32) is None
    rows[3, 2] = 0.2
    assert str(blindness(rows, torch.float32)).startswith(
        "another picture changes its output by 1.4"
    )
    assert "expected more than 2.0e+00" in str(blindness(rows, torch.float32))
    rows[3, 2] = torch.nan
    assert "not finite" in str(blindness(rows, torch.float32))
    assert "0 throughout" in str(blindness(torch.zeros(4, 3), torch.float32))


@pytest.mark.parametrize("family", FAMILIES)
def test_probes_differ_in_nothing_but_what_they_show(family, load):
    embedder = load(family)
    (text, picture), (_, other_picture), (other_text, _), last = probe_inputs(
        embedder.tokenizer, str.upper
    )
    assert picture.size == other_picture.size and picture.tobytes() != other_picture.tobytes()
    assert text != other_text and last == (text, picture)
    lengths = embedder.check_features()["attention_mask"].sum(dim=1)
    assert lengths.unique().numel() == 1
