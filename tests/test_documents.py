"""Every code block of README and examples runs; those that need a hub or a GPU say so.

`<!-- needs: hub -->` (or gpu) before a block excuses it. Of what takes hours (`make demo`,
`unime run`), the test runs the dry run; of `pip install`, it looks the extras up.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest
from PIL import Image

from tests.conftest import ROOT
from unime.core.contents import IMAGE_SUFFIXES
from unime.data.readers import READERS

PAGES = ("README.md", "examples/README.md")


class Block(NamedTuple):
    page: str
    language: str
    text: str
    needs: str


def blocks_of(page: str) -> list[Block]:
    pattern = r"(?:<!-- needs: (\w+) -->\n)?```(\w+)\n(.*?)```"
    found = re.findall(pattern, (ROOT / page).read_text(), re.DOTALL)
    return [Block(page, language, text, needs) for needs, language, text in found]


BLOCKS = [
    block for page in PAGES for block in blocks_of(page) if block.language in ("python", "bash")
]


def test_at_most_a_third_is_excused():
    excused = [block for block in BLOCKS if block.needs]
    assert {block.needs for block in excused} <= {"hub", "gpu"}
    assert len(excused) <= len(BLOCKS) / 3


def test_every_example_is_in_the_list():
    listed = (ROOT / "examples/README.md").read_text()
    for path in (ROOT / "examples").glob("*.py"):
        assert f"`{path.name}`" in listed


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory like a checkout's after `make demo`, with a few photos in it."""
    from tests.export.student import STUDENT, export_student
    from unime.rerank import RerankModel

    folder = tmp_path_factory.mktemp("checkout")
    for name in ("assets", "examples", "eval", "judge", "research", "Makefile", "pyproject.toml"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "recipes").mkdir()
    for path in (ROOT / "recipes").iterdir():
        (folder / "recipes" / path.name).symlink_to(path)
    (folder / "my_photos").mkdir()
    colours = ("red", "green", "blue", "yellow", "purple", "orange", "pink")
    for number, colour in enumerate(colours * 3):
        photo = Image.new("RGB", (48, 40 + number), colour)
        photo.paste("white", (2 * number, number, 2 * number + 9, number + 9))
        photo.save(folder / f"my_photos/{number:02}.png")
        (folder / f"my_photos/{number:02}.txt").write_text(f"{colour} with a hole at {number}")
    Image.new("RGB", (64, 64), "red").save(folder / "a.png")
    export_student(folder / "runs/mini/8_export/embedder")
    RerankModel.load(STUDENT, "cpu").save(folder / "runs/mini/7_rerank/model")
    return folder


def shell_line(line: str) -> str:
    """Return the line as it is tried: what takes hours as its dry run."""
    words = shlex.split(line, comments=True)
    if words[:1] == ["make"]:
        return f"make --dry-run {words[1]}"
    if words[:2] == ["unime", "run"]:
        return shlex.join([*words, "--dry-run"])
    if words[:2] == ["pip", "install"]:
        # tests/test_wheel.py builds and installs; here, whether the extras are there.
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        extras = {
            e for word in words for group in re.findall(r"\[(.*)\]", word) for e in group.split(",")
        }
        assert extras <= project["optional-dependencies"].keys(), line
        return ""
    return shlex.join(words)


@pytest.mark.slow
@pytest.mark.parametrize(
    "block", [b for b in BLOCKS if not b.needs], ids=lambda b: f"{b.page}: {b.text[:40]!r}"
)
def test_a_block_runs(block: Block, world: Path):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    if block.language == "python":
        commands = [[sys.executable, "-c", block.text]]
    else:
        lines = [shell_line(line) for line in block.text.splitlines()]
        commands = [["sh", "-euc", line] for line in lines if line.strip()]
    for command in commands:
        done = subprocess.run(
            command, cwd=world, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command[-1]}\n{done.stderr[-2000:]}"


@pytest.mark.slow
def test_two_stage_search_runs(world: Path, tmp_path: Path):
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.cross_encoder.modules import LogitScore

    from unime.models.template import wrap_template

    transformer = Transformer(str(ROOT / "assets/student"), transformer_task="any-to-any")
    processor = transformer.processor
    yes, no = (processor.tokenizer.convert_tokens_to_ids(word) for word in ("Yes", "No"))
    original = processor.chat_template
    processor.chat_template = wrap_template(original, [], True)
    CrossEncoder(modules=[transformer, LogitScore(yes, no)]).save_pretrained(str(tmp_path))
    export = "runs/mini/8_export/embedder"
    words = ["examples/two_stage_search.py", export, str(tmp_path), "my_photos", "a red picture"]
    done = subprocess.run(
        [sys.executable, *words], cwd=world, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout.splitlines()) == 10


def test_the_page_on_own_data_names_what_there_is():
    page = (ROOT / "docs/own_data.md").read_text()
    code = "\n".join(path.read_text() for path in (ROOT / "unime/data").rglob("*.py"))
    readers = re.search(r"`reader:` says the format: (.*)\.\n", page)
    assert readers is not None
    assert set(re.findall(r"`(\w+)`", readers[1])) == set(READERS)
    reasons = re.findall(
        r"^\| `([a-z ]+?)(?::[^`]*)?` \|", page.partition("When rows")[2], re.MULTILINE
    )
    assert len(reasons) > 5
    assert not [kind for kind in reasons if f'"{kind}"' not in code]
    suffixes = re.findall(r"`(\.\w+)`", page)
    assert not [s for s in suffixes if s not in IMAGE_SUFFIXES and s not in code]
