"""From the shell to the gradient in seven functions of ours, read in five files.

    main             unime/cli.py               the shell's words -> exit code
    command          unime/core/stage.py        recipe, overrides -> the stage
    execute          unime/core/stage.py        opens the output, finishes the manifest
    run              the stage's file           builds data, model, batches, dev set; one statement each
    train            unime/train/loop.py        hands them to transformers' Trainer
    training_step    unime/train/loop.py        one batch -> loss; smaller chunks when out of memory
    cached_step      unime/train/step.py        the one loop over chunks

What they call beside these comes back before the next of them is called.
"""

from __future__ import annotations

import ast
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

from tests.conftest import ROOT
from tests.families import build_family
from tests.rerank.test_stage import recipe_of as rerank_recipe
from tests.train.folder import drawn_folder
from unime.cli import main
from unime.core.config import Recipe
from unime.models.model_config import ModelConfig
from unime.train.contrast import ContrastRecipe
from unime.train.distill import DistillRecipe
from unime.train.teacher import TeacherSection
from unime.train.texts import TextSource

MOST_FRAMES, MOST_FILES = 7, 5
FILES = {
    "contrast": "unime/train/contrast.py",
    "distill": "unime/train/distill.py",
    "rerank": "unime/rerank/stage.py",
}
TRAINING = {"global_batch_size": 6, "max_steps": 2}


def build_teacher(folder: Path) -> Path:
    """An encoder of texts with random weights."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"?": 0, **{str(number): number + 1 for number in range(20)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    module = StaticEmbedding(tokenizer, embedding_dim=8)
    SentenceTransformer(modules=[module], device="cpu").save(str(folder))
    return folder


def contrast(folder: Path) -> Recipe:
    return ContrastRecipe(
        stage="contrast",
        output=str(folder / "out"),
        model=ModelConfig(id=str(folder / "base")),
        data=str(folder / "d"),
        training=TRAINING,  # type: ignore[arg-type]
    )


def distill(folder: Path) -> Recipe:
    texts = folder / "texts.txt"
    texts.write_text("\n".join(f"a picture of {number} red circles" for number in range(20)))
    return DistillRecipe(
        stage="distill",
        output=str(folder / "out"),
        model=ModelConfig(id=str(folder / "base")),
        teacher=TeacherSection(id=str(build_teacher(folder / "teacher"))),
        texts=[TextSource(path=str(texts))],
        held_out=5,
        training=TRAINING,  # type: ignore[arg-type]
    )


def rerank(folder: Path) -> Recipe:
    return rerank_recipe(folder, folder / "out", dev_queries=0, training=TRAINING)


RECIPES: dict[str, Callable[[Path], Recipe]] = {
    "contrast": contrast,
    "distill": distill,
    "rerank": rerank,
}


@pytest.fixture
def terminal() -> Iterator[None]:
    """`main` listens for SIGTERM: not longer than it runs."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def ours(frame: FrameType | None) -> list[tuple[str, str]]:
    """Return file and function of every frame that is the library's, outermost first."""
    found = []
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(ROOT / "unime"):
            found.append((path.relative_to(ROOT).as_posix(), frame.f_code.co_name))
        frame = frame.f_back
    return found[::-1]


def watched(function: Callable[..., Any], stacks: list[list[tuple[str, str]]]) -> Any:
    """Return a function that notes who has called it."""

    def noting(*args: Any, **kwargs: Any) -> Any:
        stacks.append(ours(sys._getframe(1)))
        return function(*args, **kwargs)

    return noting


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("stage", RECIPES)
def test_from_the_shell_to_the_gradient(stage: str, tmp_path: Path, monkeypatch):
    build_family("qwen2_vl", tmp_path / "base")
    drawn_folder(tmp_path / "d")
    (tmp_path / "recipe.yaml").write_text(RECIPES[stage](tmp_path).model_dump_json())
    gradients: list[list[tuple[str, str]]] = []
    steps: list[list[tuple[str, str]]] = []
    monkeypatch.setattr(torch.autograd, "grad", watched(torch.autograd.grad, gradients))
    monkeypatch.setattr(torch.optim.AdamW, "step", watched(torch.optim.AdamW.step, steps))
    monkeypatch.setattr(sys, "argv", ["unime", stage, str(tmp_path / "recipe.yaml")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert (tmp_path / "out/manifest.json").is_file()

    to_the_loop = [
        ("unime/cli.py", "main"),
        ("unime/core/stage.py", "command"),
        ("unime/core/stage.py", "execute"),
        (FILES[stage], "run"),
        ("unime/train/loop.py", "train"),
    ]
    in_the_loop = [("unime/train/loop.py", "training_step"), ("unime/train/step.py", "cached_step")]
    assert steps == [to_the_loop] * 2
    assert gradients == [to_the_loop + in_the_loop] * 2
    for stack in (*steps, *gradients):
        assert len(stack) <= MOST_FRAMES
        assert len({file for file, _ in stack}) <= MOST_FILES


@pytest.mark.parametrize("file", [*FILES.values(), "unime/train/loop.py", "unime/train/step.py"])
def test_no_function_on_the_way_is_given_another_to_call_back(file: str):
    tree = ast.parse((ROOT / file).read_text())
    # What sorts or picks is told how by `key`.
    keys = {
        keyword.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "key"
    }
    assert [n.lineno for n in ast.walk(tree) if isinstance(n, ast.Lambda) and n not in keys] == []
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    nested = [
        inner.name
        for node in ast.walk(tree)
        if isinstance(node, functions)
        for inner in ast.walk(node)
        if isinstance(inner, functions) and inner is not node
    ]
    assert nested == []
