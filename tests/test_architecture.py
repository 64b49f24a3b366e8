"""The layout of the code: who may import whom, what loads without torch, what is in the wheel.

`python -m tests.counts` prints the figures and every single finding.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import unime
from tests import counts
from tests.counts import ROOT

TORCH_FREE = {
    "unime", "unime.api", "unime.cli", "unime.stages", "unime.core.stage", "unime.core.provenance",
    "unime.data.stage", "unime.data.images", "unime.data.readers", "unime.data.own_data.prepare",
    "unime.judge.stage", "unime.judge.judge", "unime.judge.commands", "unime.judge.serve", "unime.judge.store",
    "unime.judge.audit.audit", "unime.select.stage", "unime.eval.commands", "unime.models.prompts",
    "research.stages",
}  # fmt: skip


def test_rooms_import_lower_rooms_only():
    assert not counts.against_the_order()


def test_there_are_no_circles():
    assert not counts.circles(counts.room_graph())
    assert not counts.circles(counts.graph())


@pytest.mark.parametrize("path", counts.modules("unime").values(), ids=str)
def test_the_product_names_nothing_that_stands_above_it(path: Path):
    roots = {name.partition(".")[0] for name in counts.imported_names(path)}
    assert not roots & {"research", "benchmarks", "tests", "judge", "eval"}
    named = re.compile(r"(research|benchmarks|tests)(\.\w+)+")
    strings = [
        node.value
        for node in ast.walk(counts.tree_of(path))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    assert not [text for text in strings if named.fullmatch(text)]


def test_one_name_means_one_thing():
    assert not counts.repeated_module_names()
    assert not counts.repeated_class_names()
    # A room that was imported would hide a public function of its name.
    assert not set(unime.__all__) & set(counts.ORDER)


def test_files_and_functions_stay_readable():
    assert not counts.long_files()
    assert not counts.long_functions()
    assert counts.median_lines() <= 150
    assert not counts.small_and_used_once()
    assert counts.docstring_share() >= 0.95


def test_light_modules_import_without_torch():
    code = f"import {', '.join(sorted(TORCH_FREE))}, sys; sys.exit('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("room", ["data", "judge"])
def test_torch_is_imported_inside_functions_only(room: str):
    for name, path in counts.modules("unime").items():
        if counts.room_of(name) != room:
            continue
        top = [n for n in counts.tree_of(path).body if isinstance(n, ast.Import | ast.ImportFrom)]
        names = {getattr(n, "module", None) or n.names[0].name for n in top}  # type: ignore[attr-defined]
        assert not {n for n in names if n.partition(".")[0] in {"torch", "transformers"}}, path


@pytest.mark.parametrize("shelf", ["prompts", "recipes", "assets", "judge", "eval"])
def test_folders_of_other_things_hold_no_python(shelf: str):
    found = {path.relative_to(ROOT / shelf).as_posix() for path in (ROOT / shelf).rglob("*.py")}
    assert found <= {"__main__.py", "torchvision_hook.py"}


LOADS = {
    "from_pretrained", "from_config", "SentenceTransformer", "CrossEncoder", "Transformer",
    "create_model_and_transforms", "create_model", "get_tokenizer",
}  # fmt: skip
PICKLES = {"pickle", "joblib", "dill", "cloudpickle", "shelve"}
LOADING = ROOT / "unime/core/loading.py"


def test_models_are_loaded_in_one_place_that_runs_no_code_and_reads_no_pickle():
    """Everything goes through one file; modules put together by us load nothing."""
    found = []
    for path in counts.modules("unime").values():
        if path == LOADING:
            continue
        roots = {name.partition(".")[0] for name in counts.imported_names(path)}
        assert not roots & PICKLES, path
        for node in ast.walk(counts.tree_of(path)):
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
    from unime.core.loading import NO_CODE, SAFE
    from unime.export.plain_loader import SCRIPT

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
    rooms = "unime|judge|eval|research|prompts|recipes|tests|assets|benchmarks|examples|docs"
    paths = set(re.findall(rf"`((?:{rooms})/[\w./-]+)`", (ROOT / name).read_text()))
    assert paths
    missing = {path for path in paths if "NAME" not in path and not (ROOT / path).exists()}
    assert not missing
