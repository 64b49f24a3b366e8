"""The wheel and its extras are all that a user needs: ten stages in an empty folder, no checkout.

The environment holds the wheel, and the packages that its metadata asks for with the extras `judge`
and `eval`, as links into this environment: nothing is downloaded, and what only developers have is
not there. `research` is not there either; the world's data was written beforehand by the checkout.
"""

from __future__ import annotations

import email
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from unime.core import files

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = ("judge", "eval")
SMALL = ("train_pairs=24", "queries=4", "candidates=20", "compositional=7", "workers=1")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was built from it."""
    folder, tree = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("tree")
    # A copy of what git has or would take: files of an earlier build beside it would get in.
    listed = checked(["git", "ls-files", "-z", "-co", "--exclude-standard"], ROOT).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).exists():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name, follow_symlinks=False)
    checked(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(tree)], tree
    )
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (found,) = built.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with the wheel and its extras' packages alone."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    (site,) = folder.glob("lib/python*/site-packages")
    link_packages(site, needed_packages(wheel, EXTRAS))
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    checked([*install, "--no-deps", "--no-index", str(wheel)], folder)
    return python


def needed_packages(wheel: Path, extras: tuple[str, ...]) -> set[str]:
    """Return the packages that pip would install for the wheel with these extras."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        metadata = email.message_from_bytes(archive.read(name))
    found: set[tuple[str, str]] = set()
    waiting = [(line, extra) for line in metadata.get_all("Requires-Dist", []) for extra in ("", *extras)]  # fmt: skip
    while waiting:
        line, extra = waiting.pop()
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        for wanted in ("", *requirement.extras):
            key = (canonicalize_name(requirement.name), wanted)
            if key in found:
                continue
            found.add(key)
            try:
                lines = distribution(key[0]).requires or []
            except PackageNotFoundError:
                raise AssertionError(f"{line} is not installed here; run make setup") from None
            waiting += [(inner, wanted) for inner in lines]
    return {name for name, _ in found}


def link_packages(site: Path, names: set[str]) -> None:
    """Link what the packages of these names installed."""
    for name in sorted(names):
        found = distribution(name)
        tops = {Path(str(file)).parts[0] for file in found.files or []}
        for top in tops - {"..", "__pycache__"}:
            place = Path(str(found.locate_file(top)))
            # Several packages may share a top folder, such as `nvidia`.
            if place.exists() and not (site / top).exists():
                (site / top).symlink_to(place)


def checked(
    words: list[str], folder: Path, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        words, cwd=folder, env={**clean, **(environment or {})}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    return done


def unime(python: Path, folder: Path, *words: str) -> str:
    done = checked([str(python.with_name("unime")), *words], folder, {"HF_HUB_OFFLINE": "1"})
    return done.stdout + done.stderr


def test_the_wheel_holds_unime_alone(wheel: Path):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"unime"}
    sources = [path for path in (ROOT / "unime").rglob("*") if path.is_file()]
    wanted = {path.relative_to(ROOT).as_posix() for path in sources if path.suffix != ".pyc"}
    for data, source in (("_prompts", "prompts"), ("_benchmarks", "eval/benchmarks")):
        found = {p.relative_to(ROOT / source) for p in (ROOT / source).rglob("*") if p.is_file()}
        assert found
        wanted |= {f"unime/{data}/{name.as_posix()}" for name in found}
    assert not wanted - set(names)


def test_the_sdist_holds_what_the_wheel_is_built_from(built: Path):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "LICENSE", "README.md", "CHANGELOG.md", "unime/cli.py"} <= names
    rooms = {name.partition("/")[0] for name in names if "/" in name}
    assert not rooms & {
        "research",
        "assets",
        "recipes",
        "benchmarks",
        "judge",
        "eval",
        "runs",
        "tests",
    }


def test_the_environment_has_the_wheel_and_neither_checkout_nor_research(
    python: Path, tmp_path: Path
):
    code = (
        "import importlib.util as u, sys, unime; from importlib.metadata import entry_points\n"
        "print(unime.__file__)\n"
        "print([n for n in ('research', 'pytest', 'benchmarks') if u.find_spec(n)])\n"
        "print([p.name for p in entry_points(group='unime.stages')])\n"
        "print(sys.path)"
    )
    place, others, points, paths = checked([str(python), "-c", code], tmp_path).stdout.splitlines()
    assert Path(place).is_relative_to(python.parents[1])
    assert others == points == "[]"
    assert str(ROOT) not in paths
    assert "No module named" in failure([str(python), "-c", "import research"], tmp_path)


def test_a_stage_of_research_is_one_sentence(python: Path, tmp_path: Path):
    (tmp_path / "0_world.yaml").write_text("stage: world\n")
    said = failure([str(python.with_name("unime")), "run", "."], tmp_path)
    assert "unknown stage 'world'" in said and "`make setup`" in said
    assert "Traceback" not in said


def failure(words: list[str], folder: Path) -> str:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        words, cwd=folder, env=clean, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode != 0
    return done.stderr


def test_serving_without_vllm_is_one_sentence(python: Path, tmp_path: Path):
    model = "{id: some/model, dtype: float32}"
    (tmp_path / "judge.yaml").write_text(
        "stage: judge\ndata: data\nmined: mined\nengine: vllm\n"
        f"engines: {{vllm: {{model: {model}}}}}\n"
    )
    words = [str(python.with_name("unime")), "judge", "serve", "judge.yaml", "--no-key"]
    said = failure(words, tmp_path)
    assert "--python" in said and "UNIME_JUDGE_PYTHON" in said
    assert "Traceback" not in said


def test_the_commands_of_judge_and_eval_answer(python: Path, tmp_path: Path):
    help_text = unime(python, tmp_path, "judge", "--help")
    assert all(f" {verb} " in help_text for verb in ("plan", "score", "status", "export", "audit", "serve"))  # fmt: skip
    listed = unime(python, tmp_path, "eval", "list")
    for path in (ROOT / "eval/benchmarks").glob("*.yaml"):
        assert re.search(rf"^{path.stem} ", listed, re.MULTILINE), path.stem


def test_the_ten_stages_run_in_an_empty_folder(python: Path, tmp_path: Path):
    prepare_folder(tmp_path)
    unime(python, tmp_path, "run", "recipe", "run=out")
    stems = sorted(path.name for path in (tmp_path / "out").iterdir() if path.name[0].isdigit())
    assert stems == [
        "0_data", "0_world", "1_distill", "2_warmup", "3_mine", "4_judge", "5_select", "6_contrast",
        "7_rerank", "8_export", "9_eval",
    ]  # fmt: skip
    assert all((tmp_path / "out" / stem / "manifest.json").is_file() for stem in stems)
    judged = pq.read_table(tmp_path / "out/4_judge/judged.parquet")
    assert judged.num_rows > 0
    assert np.isfinite(judged["positive_score"].to_numpy()).all()
    rows = files.read_json(tmp_path / "out/results.json")["rows"]
    assert [row["name"] for row in rows] == ["base", "stage 2"]
    assert (tmp_path / "out/8_export/embedder/modules.json").is_file()
    assert (tmp_path / "out/8_export/reranker/modules.json").is_file()
    again = unime(python, tmp_path, "run", "recipe", "run=out")
    assert again.count("is up to date") == 10
    report = unime(python, tmp_path, "eval", "report", "out")
    assert "report.html" in report
    compared = unime(python, tmp_path, "eval", "compare", "out/9_eval/base", "out/9_eval/stage-2")
    assert "mini_mmeb" in compared
    status = unime(python, tmp_path, "judge", "status", "recipe/4_judge.yaml", "run=out")
    assert re.search(r"^missing +0$", status, re.MULTILINE)


def prepare_folder(folder: Path) -> None:
    """Write the recipes, the models and the world that a user would bring."""
    for name in ("student", "judge"):
        shutil.copytree(ROOT / "assets" / name, folder / "assets" / name)
    world = [sys.executable, "-m", "research.world", "build", "recipes/smoke/0_world.yaml"]
    checked([*world, f"output={folder / 'out' / '0_world'}", *SMALL], ROOT, {"PYTHONPATH": str(ROOT)})  # fmt: skip
    save_teacher(folder / "teacher", words_of(folder / "out/0_world/train"))
    mini, recipe = folder / "mini", folder / "recipe"
    shutil.copytree(ROOT / "recipes/mini", mini)
    shutil.copytree(ROOT / "recipes/smoke", recipe)
    for gone in ("0_world", "0_base", "5_select_mined", "6_contrast_mined"):
        for place in (mini, recipe):
            (place / f"{gone}.yaml").unlink(missing_ok=True)
    prepared = read_yaml(mini / "4_judge.yaml")["engines"]["transformers"]["model"]
    changes: dict[str, dict[str, Any]] = {
        "0_data": {"dev_count": 4},
        "1_distill": {
            "teacher": {"id": "teacher", "sha256": None}, "texts": [], "held_out": 20, "data_limit": 100,
        },
        "7_rerank": {"dev_queries": 2},
        "9_eval": {
            "models": [
                {"name": "base", "model": {**prepared, "id": "assets/student", "max_length": 256}},
                {"name": "stage 2", "model": {**prepared, "id": "${run}/6_contrast/model", "max_length": 256}},
            ],
        },
    }  # fmt: skip
    for stem, values in changes.items():
        path = recipe / f"{stem}.yaml"
        path.write_text(yaml.safe_dump({**read_yaml(path), **values}))
    # The oracle is research's; the tiny judge stands in for it, as the recipe's comment says.
    (recipe / "4_judge.yaml").write_text(
        yaml.safe_dump({
            "stage": "judge", "data": "${run}/0_data", "mined": "${run}/3_mine", "engine": "transformers",
            "engines": {"transformers": {"model": prepared}}, "store": "scores",
        })
    )  # fmt: skip


def read_yaml(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())


def words_of(folder: Path) -> list[str]:
    """Return the words of all texts below a folder."""
    text = " ".join(
        json.dumps(pq.read_table(path).select(texts).to_pylist())
        for path in folder.rglob("*.parquet")
        if (texts := [f.name for f in pq.read_schema(path) if str(f.type) == "string"])
    )
    return sorted(set(re.findall(r"[a-z]+", text)))


def save_teacher(folder: Path, words: list[str]) -> None:
    """Save a text embedder: the sum of its words' random vectors."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer, models, pre_tokenizers

    assert len(words) > 50
    vocabulary = {word: number for number, word in enumerate(["?", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    weights = np.random.default_rng(0).standard_normal((len(vocabulary), 16)).astype(np.float32)
    module = StaticEmbedding(tokenizer, embedding_weights=weights)
    SentenceTransformer(modules=[module], device="cpu").save(str(folder))
