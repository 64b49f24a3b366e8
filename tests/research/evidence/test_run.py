"""Cells: shared steps run once, a killed run carries on, results hold all that tables need."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from research.evidence import looks
from research.evidence.chain import chain_of
from research.evidence.grid import Cell
from research.evidence.launch import Launcher
from research.evidence.result import load_result, pack, path_of, unpack
from research.evidence.run import check_cell, left, pace_of, run_cells, states
from research.evidence.tables import page
from tests.research.evidence.small import QUERIES, FakeStages, small_grid
from unime.core import files
from unime.core.errors import DataError, OutputError, UnimeError
from unime.core.hashes import sha256


def test_shared_steps_run_once_and_finished_cells_never_again(tmp_path: Path):
    grid, stages = small_grid(tmp_path), FakeStages()
    cells = grid.cells("t", seeds=[1])
    run_cells(grid, cells, stages)
    # One world, three trainings, three evaluations.
    assert len(stages.ran) == len(set(stages.ran)) == 7
    again = FakeStages()
    run_cells(grid, cells, again)
    assert again.ran == []


def test_cells_side_by_side_make_shared_steps_once_and_the_same_results(tmp_path: Path):
    grid, stages = small_grid(tmp_path), FakeStages(seconds=0.05)
    cells = grid.cells("t")
    run_cells(grid, cells, stages, jobs=4)
    assert stages.most_at_once > 1
    assert len(stages.ran) == len(set(stages.ran)) == 3 * 7
    assert looks.count(grid, "t") == 1 and len(looks.read(grid)[0]["cells"]) == 9
    beside = [load_result(path_of(grid, cell)).outcomes for cell in cells]
    for cell in cells:
        path_of(grid, cell).unlink()
    run_cells(grid, cells, FakeStages())
    assert [load_result(path_of(grid, cell)).outcomes for cell in cells] == beside


def test_a_failure_beside_others_stops_the_run_and_keeps_what_is_done(tmp_path: Path):
    grid, stages = small_grid(tmp_path), FakeStages(fails="train", seconds=0.05)
    with pytest.raises(UnimeError, match="step 'train' ended with exit code 1"):
        run_cells(grid, grid.cells("t"), stages, jobs=2)
    assert {name.partition("-")[0] for name in stages.ran} == {"world"}
    rest = FakeStages()
    run_cells(grid, grid.cells("t"), rest, jobs=2)
    assert len({*stages.ran, *rest.ran}) == len(stages.ran) + len(rest.ran) == 3 * 7


def test_a_job_beside_others_has_its_share_of_threads_and_a_log(
    tmp_path: Path, monkeypatch, caplog
):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    script = "import os, sys; print(os.environ['OMP_NUM_THREADS'], 'threads'); sys.exit(3)"
    (tmp_path / "job.py").write_text(script)
    monkeypatch.chdir(tmp_path)
    with caplog.at_level(logging.INFO, logger="unime"):
        assert Launcher(jobs=10_000)(["job", "output=runs/step"]) == 3
    assert (tmp_path / "runs/step.log").read_text() == "1 threads\n"
    assert "the end of runs/step.log:\n1 threads" in caplog.text


@pytest.mark.parametrize("jobs", [1, 2])
def test_sigterm_reaches_the_steps_that_run(tmp_path: Path, monkeypatch, jobs: int):
    script = "import pathlib, sys, time; pathlib.Path(sys.argv[1]).touch(); time.sleep(600)"
    (tmp_path / "job.py").write_text(script)
    monkeypatch.chdir(tmp_path)
    start = Launcher(jobs)
    tell_when = threading.Thread(target=_tell_to_stop, args=[[Path(str(n)) for n in range(jobs)]])
    tell_when.start()
    with start.passing_on_sigterm(), ThreadPoolExecutor(jobs) as pool:
        codes = pool.map(lambda n: start(["job", str(n), f"output=step{n}"]), range(jobs))
        assert list(codes) == [-signal.SIGTERM] * jobs
        assert start(["job", "later", "output=later"]) == -signal.SIGTERM
    assert not Path("later").exists()
    tell_when.join()


def _tell_to_stop(begun: list[Path]) -> None:
    while not all(path.exists() for path in begun):
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("steps", range(7))
def test_a_run_killed_between_steps_carries_on(tmp_path: Path, steps: int):
    grid = small_grid(tmp_path)
    cells = grid.cells("t", seeds=[1])
    killed = FakeStages(die_after=steps)
    with pytest.raises(KeyboardInterrupt):
        run_cells(grid, cells, killed)
    rest = FakeStages()
    run_cells(grid, cells, rest)
    assert len(killed.ran) == steps
    assert len({*killed.ran, *rest.ran}) == len(killed.ran) + len(rest.ran) == 7
    assert [one.state for one in states(grid, cells)] == ["done"] * 3


def test_a_failing_step_is_named_with_its_command(tmp_path: Path):
    grid = small_grid(tmp_path)
    with pytest.raises(
        UnimeError, match=r"step 'world' ended with exit code 2: python -m research.world build"
    ):
        run_cells(grid, grid.cells("t"), lambda words: 2)
    with pytest.raises(UnimeError, match="step 'world' stopped before it was finished"):
        run_cells(grid, grid.cells("t"), lambda words: 0)


def test_a_result_says_where_it_comes_from(tmp_path: Path):
    grid, cell = small_grid(tmp_path), Cell("t", "b", 2)
    run_cells(grid, [cell], FakeStages())
    result = load_result(path_of(grid, cell))
    assert path_of(grid, cell).stat().st_size < 30_000
    assert result.command == "python -m research.evidence run --table t --row b --seed 2"
    assert [step.name for step in result.steps] == ["world", "train", "eval"]
    assert result.figures == {"rate": 0.5}
    for step, ran in zip(chain_of(grid, cell), result.steps, strict=True):
        assert ran.manifest == sha256(step.folder / "manifest.json")
        assert ran.command == step.command
    hits = {name: outcomes.hits() for name, outcomes in result.outcomes.items()}
    assert result.score("overall") == 50 * (hits["cats"].mean() + hits["dogs"].mean())
    assert result.score("swap") == 100 * hits["swap_obj"].mean()
    assert all(len(values) == QUERIES for values in hits.values())
    with pytest.raises(DataError, match="was not evaluated on 'vqa'"):
        result.score("vqa")


def test_a_step_made_from_another_output_is_refused(tmp_path: Path):
    grid, cell = small_grid(tmp_path), Cell("t", "a", 1)
    world, *_ = chain = chain_of(grid, cell)
    run_cells(grid, [cell], FakeStages())
    path_of(grid, cell).unlink()
    manifest = files.read_json(world.folder / "manifest.json")
    files.write_json(world.folder / "manifest.json", {**manifest, "facts": {"rate": 1}})
    with pytest.raises(OutputError, match=f"{chain[1].folder} was made from another output"):
        run_cells(grid, [cell], FakeStages())


def test_a_changed_grid_makes_results_stale(tmp_path: Path):
    grid, cell = small_grid(tmp_path), Cell("t", "a", 1)
    run_cells(grid, [cell], FakeStages())
    changed = small_grid(tmp_path, {"steps": {"train": {"set": {"lr": 5}}}})
    assert [one.state for one in states(changed, [cell])] == ["stale"]
    stages = FakeStages()
    run_cells(changed, [cell], stages)
    assert [name.partition("-")[0] for name in stages.ran] == ["train", "eval"]


def test_a_figure_that_a_row_gets_later_is_read_from_its_finished_steps(tmp_path: Path):
    grid = small_grid(tmp_path)
    (cell,) = grid.cells("t", "a", [1])
    run_cells(grid, [cell], FakeStages())
    figures = {"rate": "train/manifest.json:facts.rate"}
    grown = small_grid(tmp_path, {"tables": {"t": {"rows": {"a": {"figures": figures}}}}})
    assert [one.state for one in states(grown, [cell])] == ["stale"]
    again = FakeStages()
    run_cells(grown, [cell], again)
    assert again.ran == []
    assert load_result(path_of(grown, cell)).figures == {"rate": 0.5}


def test_looks_at_test_seeds_are_counted(tmp_path: Path):
    grid = small_grid(tmp_path)
    run_cells(grid, grid.cells("t", seeds=[grid.dev]), FakeStages())
    assert looks.read(grid) == []
    run_cells(grid, grid.cells("t"), FakeStages())
    assert looks.count(grid, "t") == 1
    assert len(looks.read(grid)[0]["cells"]) == 9
    path_of(grid, Cell("t", "a", 1)).unlink()
    run_cells(grid, grid.cells("t"), FakeStages())
    assert looks.count(grid, "t") == 2
    assert looks.read(grid)[1]["cells"] == ["a-seed1"]


def test_time_left_is_planned_time_at_the_measured_pace(tmp_path: Path):
    grid = small_grid(tmp_path)
    found = states(grid, grid.cells("t", seeds=[1]))
    assert pace_of(found[0].chain) == 1
    assert left(found) == 10 + 3 * (100 + 50)
    run_cells(grid, [found[0].cell], FakeStages())
    found = states(grid, grid.cells("t", seeds=[1]))
    assert pace_of([step for one in found for step in one.chain]) == pytest.approx(60 / 160)
    assert left(found) == 2 * (100 + 50)


def test_a_cell_is_checked_from_nothing(tmp_path: Path):
    grid, cell = small_grid(tmp_path), Cell("t", "a", 1)
    with pytest.raises(DataError, match="is missing; make it with python -m research.evidence run"):
        check_cell(grid, cell, tmp_path / "runs/check", FakeStages())
    run_cells(grid, [cell], FakeStages())
    stages = FakeStages()
    assert "95 % interval" in check_cell(grid, cell, tmp_path / "runs/check", stages)
    assert len(stages.ran) == 3
    assert looks.count(grid, "t") == 1
    path = path_of(grid, cell)
    values = files.read_json(path)
    nothing = pack(np.zeros(QUERIES, dtype=bool))
    values["outcomes"]["cats"]["bits"] = values["outcomes"]["dogs"]["bits"] = nothing
    files.write_json(path, values)
    with pytest.raises(DataError, match="the result is not reproduced"):
        check_cell(grid, cell, tmp_path / "runs/check", FakeStages())


@pytest.mark.parametrize("count", [1, 7, 8, 9, 400])
def test_outcomes_survive_packing(count: int):
    hits = np.random.default_rng(count).random(count) < 0.5
    assert np.array_equal(unpack(pack(hits), count), hits)


FIGURES = {"title": "rate", "figures_only": True, "against": [], "figures": {"rate": "train/manifest.json:facts.rate"}}  # fmt: skip


def test_a_row_of_figures_alone_is_not_evaluated(tmp_path: Path):
    grid = small_grid(tmp_path, {"tables": {"t": {"rows": {"only": FIGURES}}}})
    cell, stages = Cell("t", "only", 1), FakeStages()
    run_cells(grid, [cell], stages)
    assert [name.partition("-")[0] for name in stages.ran] == ["world", "train"]
    result = load_result(path_of(grid, cell))
    assert (result.figures, result.outcomes, result.scores) == ({"rate": 0.5}, {}, {})
    assert "| rate | 0.5 | 1 |" in page(grid)
    assert "rate 0.5 now, 0.5 committed" in check_cell(
        grid, cell, tmp_path / "runs/check", FakeStages()
    )
    values = files.read_json(path_of(grid, cell))
    files.write_json(path_of(grid, cell), {**values, "figures": {"rate": 0.6}})
    with pytest.raises(DataError, match="differs by more than 5 %"):
        check_cell(grid, cell, tmp_path / "runs/check", FakeStages())
    # Beside evaluated rows its cells of the table stay empty.
    run_cells(grid, grid.cells("t", "a", [1]), FakeStages())
    (line,) = [line for line in page(grid).splitlines() if line.startswith("| rate |")]
    assert line.count("|") == page(grid).split("| plain |")[1].splitlines()[0].count("|") + 2


def test_what_is_prepared_is_what_the_cells_need(tmp_path: Path):
    preparations = [
        {"makes": str(tmp_path / step), "command": ["world", step], "steps": [step]}
        for step in ("train", "eval")
    ]
    tables = {"t": {"rows": {"only": FIGURES}}}
    grid = small_grid(tmp_path, {"prepare": preparations, "tables": tables})
    asked: list[str] = []

    def start(words):
        if words[0] == "world" and len(words) == 2:
            asked.append(words[1])
            return 0
        return stages(words)

    stages = FakeStages()
    run_cells(grid, [Cell("t", "only", 1)], start)
    assert asked == ["train"]
