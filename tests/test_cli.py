"""The commands: quick to answer, one sentence for a mistake."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from unime.core.errors import EXTRAS, extra_missing

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


def test_help_takes_less_than_half_a_second():
    """Of the processor's time: a machine that others use as well does not change it."""

    def seconds() -> float:
        before = os.times()
        assert unime("--help").returncode == 0
        after = os.times()
        return sum(after[2:4]) - sum(before[2:4])

    assert min(seconds() for _ in range(3)) < 0.5


@pytest.mark.parametrize(
    ("module", "words", "extra"),
    [
        ("mteb", ["eval", "run", "mteb:STS12", "--model", "assets/student"], "eval"),
        ("aiohttp", ["judge", "plan", "recipes/mini/4_judge.yaml"], "judge"),
    ],
)
def test_a_missing_extra_is_one_sentence(module: str, words: list[str], extra: str):
    code = (
        f"import sys; sys.modules[{module!r}] = None; sys.argv = ['unime', *{words!r}]\n"
        "from unime.cli import main\nmain()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert f"pip install 'unime[{extra}]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_package_of_no_extra_is_not_hidden():
    assert extra_missing(ModuleNotFoundError(name="unime.nowhere")) is None
    missing = ModuleNotFoundError(name="aiohttp.client")
    assert extra_missing(missing, "eval") == (
        "this needs the package aiohttp: pip install 'unime[eval]'"
    )


def test_every_extra_that_is_named_brings_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for module, extras in EXTRAS.items():
        for extra in extras:
            lines = project["optional-dependencies"][extra]
            names = {re.split(r"[<>=\[]", line)[0].replace("-", "_") for line in lines}
            assert names & {module, f"{module}_torch", f"{module}_python"}, (module, extra)


@pytest.mark.parametrize("program", ["judge", "eval"])
def test_a_program_of_a_checkout_is_the_command_of_that_name(program: str):
    done = subprocess.run(
        [sys.executable, "-m", program, "--help"], cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    table = done.stdout.partition("Commands")[2]
    assert table and table == unime(program, "--help").stdout.partition("Commands")[2]
