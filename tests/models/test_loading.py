"""A checkpoint is data: its code is not run, its pickles are not read, and nobody is asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.families import build_family
from unime.core.errors import ModelError
from unime.eval.encoders.open_clip import OpenClipConfig, load_open_clip
from unime.eval.encoders.sentence_model import SentenceTransformersConfig, load_sentence_model
from unime.eval.two_stage import RerankerChoice, load_reranker
from unime.judge.transformers_engine import JudgeModel, TransformersOptions, served
from unime.models.adapters import LoraSection
from unime.models.backbones import load_generative, renderer_of
from unime.models.embedder import Embedder
from unime.models.model_config import ModelConfig
from unime.train.teacher import TeacherSection, teach

CODE = "import pathlib\npathlib.Path(__file__ + '.ran').touch()\n"


@pytest.fixture
def folder(tmp_path) -> Path:
    return build_family("qwen2_vl", tmp_path / "model")


def ask_for_code(folder: Path) -> None:
    """Be of a type that nobody knows, described by a file of its own."""
    for name in ("config.json", "processor_config.json", "tokenizer_config.json"):
        values = json.loads((folder / name).read_text())
        values["auto_map"] = {
            key: f"evil.{key}"
            for key in ("AutoConfig", "AutoModel", "AutoProcessor", "AutoImageProcessor")
        } | {"AutoModelForImageTextToText": "evil.Model", "AutoTokenizer": ["evil.T", "evil.T"]}
        values |= {"model_type": "evil"} if name == "config.json" else {"processor_class": "Evil"}
        values |= {"tokenizer_class": "Evil"} if name == "tokenizer_config.json" else {}
        (folder / name).write_text(json.dumps(values))
    (folder / "evil.py").write_text(CODE)


def pickle_weights(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


LOADS: dict[str, Callable[[str], Any]] = {
    "embedder": lambda name: Embedder.load(ModelConfig(id=name), "cpu"),
    "plain embedder": lambda name: Embedder.load(ModelConfig(id=name), "cpu", plain=True),
    "generative": lambda name: load_generative(ModelConfig(id=name), "cpu"),
    "judge": lambda name: TransformersOptions(model=JudgeModel(id=name)).engine(None),
    "reranker": lambda name: load_reranker(RerankerChoice(id=name)),
    "teacher": lambda name: teach(TeacherSection(id=name), ["x"], Path(name) / "taught"),
    "baseline": lambda name: load_sentence_model(
        SentenceTransformersConfig(id=name, model_kwargs={"use_safetensors": False}), "cpu"
    ),
}


@pytest.mark.parametrize("kind", LOADS)
def test_code_of_a_folder_is_refused_in_a_sentence(kind, folder, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on the terminal"))
    ask_for_code(folder)
    with pytest.raises(ModelError, match=r"cannot load the \w+ .* asks for code of its own"):
        LOADS[kind](str(folder))
    assert not (folder / "evil.py.ran").exists()


@pytest.mark.parametrize("kind", LOADS)
def test_pickled_weights_are_refused_in_a_sentence(kind, folder):
    pickle_weights(folder)
    with pytest.raises(ModelError, match=r"pytorch_model.bin is a pickle, which can run code"):
        LOADS[kind](str(folder))


def test_what_reads_no_weights_runs_no_code_either(folder):
    from unime.train.estimate import model_parts

    ask_for_code(folder)
    name = str(folder)
    for load in (
        lambda: renderer_of(ModelConfig(id=name)),
        lambda: served(ModelConfig(id=name)),
        lambda: model_parts(name, LoraSection()),
    ):
        with pytest.raises(ModelError, match="asks for code of its own"):
            load()
    assert not (folder / "evil.py.ran").exists()


def test_a_pickled_module_of_a_baseline_is_refused(tmp_path):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Dense
    from sentence_transformers.sentence_transformer.modules import BoW

    SentenceTransformer(modules=[BoW(["a", "b"]), Dense(2, 2)], device="cpu").save(str(tmp_path))
    config = SentenceTransformersConfig(id=str(tmp_path))
    load_sentence_model(config, "cpu")
    module = next(tmp_path.glob("*_Dense"))
    torch.save(load_file(module / "model.safetensors"), module / "pytorch_model.bin")
    (module / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"_Dense/pytorch_model.bin is a pickle"):
        load_sentence_model(config, "cpu")


def test_custom_modules_of_a_baseline_are_refused(folder):
    (folder / "modules.json").write_text(
        json.dumps([{"idx": 0, "name": "0", "path": "", "type": "evil.Module"}])
    )
    (folder / "evil.py").write_text(CODE + "class Module: pass\n")
    with pytest.raises(ModelError, match="asks for code of its own"):
        load_sentence_model(SentenceTransformersConfig(id=str(folder)), "cpu")
    assert not (folder / "evil.py.ran").exists()


def test_open_clip_reads_no_pickle(tmp_path):
    weights = tmp_path / "weights.pt"
    torch.save({}, weights)
    with pytest.raises(ModelError, match="weights.pt is a pickle"):
        load_open_clip(OpenClipConfig(architecture="RN50", pretrained=str(weights)), "cpu")


def test_a_recipe_cannot_ask_for_code():
    with pytest.raises(ValueError, match="a model's own code is never run here"):
        SentenceTransformersConfig(id="x", trust_remote_code=True)
