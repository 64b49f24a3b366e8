"""The house: who may import whom, what is in the wheel, what holds no Python."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TORCH_FREE = {
    "unime.core.errors", "unime.data.items", "unime.core.files", "unime.data.tables", "unime.core.config", "unime.core.console",
    "unime.core.provenance", "unime.core.stage", "unime.run", "unime.cli", "unime.models.prompts", "unime.data.images",
    "unime.data.readers", "unime.data.stage", "unime.select.stage",
}  # fmt: skip


def imports_of(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def sources(room: str) -> list[Path]:
    found = sorted((ROOT / room).rglob("*.py"))
    assert found, f"no Python in {room}/"
    return found


@pytest.mark.parametrize("path", sources("unime"), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_library_imports_no_program(path: Path):
    roots = {name.partition(".")[0] for name in imports_of(path)}
    assert not roots & {"judge", "eval", "world", "evidence", "tests", "benchmarks"}


@pytest.mark.parametrize("path", sources("judge"), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_judge_needs_torch_in_one_engine_only(path: Path):
    if path.name == "transformers_engine.py":
        return
    names = imports_of(path)
    assert not {n for n in names if n.partition(".")[0] in {"torch", "transformers"}}
    assert not {n for n in names if n.startswith(("unime.models", "unime.train", "unime.losses"))}


@pytest.mark.parametrize("room", ["judge", "eval", "world"])
def test_no_program_needs_the_evidence(room: str):
    for path in sources(room):
        assert "evidence" not in {name.partition(".")[0] for name in imports_of(path)}, path


def test_light_modules_import_without_torch():
    code = f"import {', '.join(sorted(TORCH_FREE))}, sys; sys.exit('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_nobody_imports_the_bare_name_eval():
    for room in ("unime", "judge", "eval", "world", "evidence", "tests"):
        for path in sources(room):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    assert "eval" not in {alias.name for alias in node.names}, path


@pytest.mark.parametrize("shelf", ["prompts", "recipes", "assets"])
def test_shelves_hold_no_python(shelf: str):
    assert not list((ROOT / shelf).rglob("*.py"))


def test_files_and_functions_stay_readable():
    too_long = []
    for room in ("unime", "judge", "eval", "world", "evidence"):
        for path in sources(room):
            text = path.read_text()
            if text.count("\n") > 400:
                too_long.append(f"{path.relative_to(ROOT)}: {text.count(chr(10))} lines")
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    length = (node.end_lineno or 0) - node.lineno + 1
                    if length > 100:
                        too_long.append(f"{path.relative_to(ROOT)}:{node.name}: {length} lines")
    assert not too_long


LOADS = {
    "from_pretrained", "from_config", "SentenceTransformer", "CrossEncoder", "Transformer",
    "create_model_and_transforms", "create_model", "get_tokenizer",
}  # fmt: skip
PICKLES = {"pickle", "joblib", "dill", "cloudpickle", "shelve"}


@pytest.mark.parametrize("room", ["unime", "judge", "eval"])
def test_models_are_loaded_in_one_place_that_runs_no_code_and_reads_no_pickle(room: str):
    """Everything goes through unime/models/loading.py; modules put together by us load nothing."""
    found = []
    for path in sources(room):
        if path == ROOT / "unime/models/loading.py":
            continue
        assert not {name.partition(".")[0] for name in imports_of(path)} & PICKLES, path
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            options = {keyword.arg for keyword in node.keywords}
            loads = name in LOADS and "modules" not in options
            pickles = ast.unparse(node.func) == "torch.load" or "allow_pickle" in options
            if loads or pickles:
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}")
    assert not found


def test_the_loads_of_the_clean_process_are_as_safe():
    from unime.export.plain_loader import SCRIPT
    from unime.models.loading import NO_CODE, SAFE

    assert SAFE == {"trust_remote_code": False, "use_safetensors": True}
    assert NO_CODE == {"trust_remote_code": False}
    loads = [
        ast.unparse(node)
        for node in ast.walk(ast.parse(SCRIPT))
        if isinstance(node, ast.Call)
        and getattr(node.func, "attr", getattr(node.func, "id", "")) in LOADS
    ]
    assert len(loads) == 3
    assert all("trust_remote_code=False" in load for load in loads)
    assert sum("use_safetensors" in load for load in loads) == 2


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_every_path_a_page_names_exists(name: str):
    rooms = (
        "unime|judge|eval|world|evidence|prompts|recipes|tests|assets|results|benchmarks|examples"
    )
    paths = set(re.findall(rf"`((?:{rooms})/[\w./-]+)`", (ROOT / name).read_text()))
    assert paths
    missing = {path for path in paths if "NAME" not in path and not (ROOT / path).exists()}
    assert not missing
