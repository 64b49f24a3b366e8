"""What a release goes through: workflows name commands that exist, and a bad distribution is found."""

from __future__ import annotations

import importlib.util
import os
import re
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

WORKFLOWS = ROOT / ".github/workflows"


def targets() -> set[str]:
    """The targets of the Makefile."""
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def load(name: str) -> dict[str, Any]:
    workflow = yaml.safe_load((WORKFLOWS / name).read_text())
    # YAML 1.1 reads the key `on` as true.
    return {"on" if key is True else key: value for key, value in workflow.items()}


@pytest.mark.parametrize("path", sorted(WORKFLOWS.glob("*.yml")), ids=lambda path: path.name)
def test_a_workflow_runs_commands_that_there_are(path: Path):
    workflow = load(path.name)
    assert workflow["on"] and workflow["permissions"] == {"contents": "read"}
    jobs = workflow["jobs"]
    for job in jobs.values():
        needs = job.get("needs", [])
        assert set([needs] if isinstance(needs, str) else needs) <= jobs.keys()
        if "uses" in job:
            assert (ROOT / job["uses"]).is_file()
            assert "workflow_call" in load(Path(job["uses"]).name)["on"]
            continue
        assert "runs-on" in job
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step)
            if "uses" in step:
                assert re.fullmatch(r"[\w-]+/[\w-]+@[\w./]+", step["uses"])
                continue
            command = step["run"].split()
            if command[0] == "make":
                assert command[1] in targets()
            elif command[0] != "git":
                assert os.access(ROOT / command[0], os.X_OK)


def test_ci_calls_what_one_runs_by_hand_and_a_tag_alone_publishes():
    ci, release = load("ci.yml"), load("release.yml")
    assert [s["run"] for s in ci["jobs"]["run"]["steps"] if "run" in s][-1] == ".ci/run"
    assert release["on"] == {"push": {"tags": ["v*"]}}
    order = [release["jobs"][name].get("needs") for name in ("build", "publish")]
    assert order == ["ci", "build"]
    publish = release["jobs"]["publish"]
    assert publish["permissions"] == {"id-token": "write"} and publish["environment"]["name"]
    text = (WORKFLOWS / "release.yml").read_text()
    assert "gh-action-pypi-publish" in text and "secrets." not in text


def test_the_checks_before_a_change_are_targets_of_make():
    text = (ROOT / ".ci/run").read_text()
    named = re.findall(r"make ([a-z-]+)", text)
    assert set(named) <= targets()
    # judge/ and eval/ have tests among both, the wheel among the slow ones.
    assert {"lint", "test", "lowest", "release", "smoke", "judge-env", "slow"} <= set(named)


def test_every_environment_of_a_checkout_has_the_stages_of_research():
    text = (ROOT / "Makefile").read_text()
    for environment in ("ready", "lowest/ready", "locked/ready"):
        (rule,) = re.findall(
            rf"^\.venv[/-]{re.escape(environment)}:.*\n((?:\t.*\n)+)", text, re.MULTILINE
        )
        assert "--editable research" in rule, environment


@pytest.fixture
def check():
    spec = importlib.util.spec_from_file_location("check_release", ROOT / ".ci/check_release.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tree(tmp_path: Path, check: Any) -> Path:
    """A project of version 1.2.0 with distributions as they should be."""
    (tmp_path / "unime").mkdir()
    (tmp_path / "unime/__init__.py").write_text('__version__ = "1.2.0"\n')
    (tmp_path / "CITATION.cff").write_text("title: unime\nversion: 1.2.0\n")
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## 1.2.0 (2026-12-01)\n\n## 1.1.0\n")
    write_dist(tmp_path, list(check.DATA))
    return tmp_path


def write_dist(tree: Path, data: list[str], extra: str = "unime-1.2.0.dist-info/METADATA") -> None:
    dist = tree / "dist"
    dist.mkdir(exist_ok=True)
    with zipfile.ZipFile(dist / "unime-1.2.0-py3-none-any.whl", "w") as wheel:
        for name in [*(f"unime/{name}" for name in data), extra]:
            wheel.writestr(name, "")
    with tarfile.open(dist / "unime-1.2.0.tar.gz", "w:gz") as sdist:
        for name in ("CHANGELOG.md", "CITATION.cff", "LICENSE", "README.md", "pyproject.toml"):
            sdist.addfile(tarfile.TarInfo(f"unime-1.2.0/{name}"))


def test_a_good_distribution_has_no_problems(check: Any, tree: Path):
    assert check.problems(tree / "dist", root=tree) == []
    assert check.problems(tree / "dist", "v1.2.0", tree) == []


def test_what_is_wrong_with_a_distribution_is_said(check: Any, tree: Path):
    write_dist(tree, list(check.DATA[1:]), extra="tests/test_a.py")
    found = check.problems(tree / "dist", root=tree)
    assert found == [
        f"the wheel lacks unime/{check.DATA[0]}",
        "the wheel holds tests/ beside unime/",
    ]
    (tree / "CITATION.cff").write_text("version: 1.1.0\n")
    (tree / "dist/unime-1.1.0.tar.gz").touch()
    first, second = check.problems(tree / "dist", root=tree)
    assert first == "CITATION.cff says version 1.1.0, unime 1.2.0"
    assert "unime-1.1.0.tar.gz" in second


def test_a_tag_is_of_the_version_and_has_its_changes(check: Any, tree: Path):
    assert check.problems(tree / "dist", "v1.3.0", tree) == ["the tag is v1.3.0, the version 1.2.0"]
    (tree / "CHANGELOG.md").write_text("# Changelog\n\n## Unreleased\n")
    (said,) = check.problems(tree / "dist", "v1.2.0", tree)
    assert said == "CHANGELOG.md begins with 'Unreleased', expected '1.2.0 (YYYY-MM-DD)'"


def test_data_that_a_release_is_checked_for_is_there(check: Any):
    assert not [name for name in check.DATA if not (ROOT / "unime" / name).exists()]


def test_the_citation_has_what_the_format_asks_for():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors", "version", "license"} <= citation.keys()
    assert all(reference["authors"] and reference["title"] for reference in citation["references"])
