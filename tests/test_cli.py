"""The commands: quick to answer, one sentence for a mistake."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def unime(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "unime", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_help_names_every_verb_and_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['unime', '--help']\n"
        "from unime.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'pyarrow', 'numpy', 'PIL'} & sys.modules.keys()\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for verb in (
        "data",
        "distill",
        "contrast",
        "mine",
        "select",
        "export",
        "verify",
        "push",
        "search",
        "run",
    ):
        assert f" {verb} " in done.stdout


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["mine", "recipes/mini/3_mnie.yaml"], "error: no recipe recipes/mini/3_mnie.yaml"),
        (["mine", "recipes/mini/2_warmup.yaml"], "this command runs 'mine'; use python -m unime contrast recipes/mini/2_warmup.yaml"),
        (["run", "recipes"], "error: recipes holds no recipe named like 2_contrast.yaml"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence_and_exit_code_2(words: list[str], sentence: str):
    done = unime(*words)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
