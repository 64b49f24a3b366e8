"""The wheel: only `unime`, with its prompts, and its commands work away from the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*command, "--wheel-dir", str(folder), str(ROOT)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (found,) = folder.glob("*.whl")
    return found


@pytest.mark.slow
def test_the_wheel_holds_unime_alone(wheel: Path):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"unime"}
    assert "unime/_prompts/embed/hierarchical.v1.yaml" in names
    assert "unime/_prompts/LOCK" in names


@pytest.mark.slow
def test_an_installed_wheel_checks_a_recipe_and_finds_its_prompts(wheel: Path, tmp_path: Path):
    target = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(target)
    recipe = tmp_path / "1_distill.yaml"
    recipe.write_text(
        "stage: distill\nmodel: {id: Qwen/Qwen2-VL-2B-Instruct}\nteacher: {id: some/teacher}\n"
        "texts: [{path: texts.txt}]\ntraining: {max_steps: 1}\n"
    )
    (tmp_path / "texts.txt").write_text("one\n")
    environment = {**os.environ, "PYTHONPATH": str(target)}

    def python(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    said = python("-m", "unime", "distill", "1_distill.yaml", "--dry-run")
    assert "prompt: embed/hierarchical.v1" in said
    code = (
        "import unime; from unime.models.prompts import load_prompt; "
        "print(unime.__file__); print(load_prompt('embed/hierarchical.v1').hash)"
    )
    where, digest = python("-c", code).split()
    assert Path(where).is_relative_to(target)
    assert len(digest) >= 16
