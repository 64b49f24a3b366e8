"""The load test of judges: every pair is asked, and a page keeps other measurements."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from benchmarks.judge import CANDIDATES, _serve
from benchmarks.judge_load import Load, Measured, main, measure, table, written
from tests.conftest import ROOT
from unime.core.errors import RecipeError


@pytest.fixture
def addresses():
    """Two servers that judge without looking."""
    context = multiprocessing.get_context("spawn")
    found, processes = [], []
    for _ in range(2):
        ready: Any = context.Queue()
        process = context.Process(target=_serve, args=(ready,))
        process.start()
        processes.append(process)
        found.append(f"http://127.0.0.1:{ready.get(timeout=120)}/v1")
    yield found
    for process in processes:
        process.terminate()
        process.join()


def test_every_concurrency_is_measured_in_every_round(addresses, monkeypatch):
    monkeypatch.chdir(ROOT)
    asked = []
    from benchmarks import judge_load

    original = judge_load.pairs

    def counted(queries: int, seed: int = 0, size: int = 64):
        asked.append((queries, seed))
        return original(queries, seed, size)

    monkeypatch.setattr(judge_load, "pairs", counted)
    found = measure(addresses, Load(concurrencies=(1, 4), queries=1, rounds=2))
    assert [one.concurrency for one in found] == [1, 4]
    assert all(len(one.rates) == 2 and min(one.rates) > 0 for one in found)
    # A round has a query for every server; one call before them warms up; no pair is asked twice.
    assert [queries for queries, _ in asked] == [2] * 5
    assert len({seed for _, seed in asked}) == 5


def test_the_command_writes_its_table(addresses, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(ROOT)
    page = tmp_path / "page.md"
    page.write_text("Head\n<!-- throughput -->\n<!-- end -->\ntail\n")
    words = [*addresses, "--concurrency", "2", "--queries", "1", "--rounds", "1", "--name", "stub", "--write", str(page)]  # fmt: skip
    main(words)
    line = json.loads(capsys.readouterr().out)
    assert line["ratios"]["best_pairs_per_second"] > 0 and line["settings"]["servers"] == 2
    text = page.read_text()
    assert text.startswith("Head\n") and text.endswith("tail\n")
    assert "### stub\n" in text and f"1 rounds of {2 * CANDIDATES} pairs" in text
    assert "| 2 | " in text and "cores" in text


def test_a_measurement_of_the_same_heading_is_replaced_and_others_stay():
    page = "Head\n<!-- throughput -->\n<!-- end -->\ntail\n"
    page = written(page, "one", "first")
    page = written(page, "two", "second")
    page = written(page, "one", "third")
    assert page == (
        "Head\n<!-- throughput -->\n### two\n\nsecond\n\n### one\n\nthird\n<!-- end -->\ntail\n"
    )
    with pytest.raises(RecipeError, match="no lines"):
        written("Head\n", "one", "first")


def test_the_table_has_the_median_and_what_got_no_score():
    text = table([Measured(8, (30.0, 10.0, 20.0), 3)])
    assert text.splitlines()[-1] == "| 8 | 20.0 | 10.0 | 30.0 | 3 |"


def test_the_committed_table_was_written_by_the_command():
    text = (ROOT / "judge/throughput.md").read_text()
    middle = text.partition("<!-- throughput -->")[2].partition("<!-- end -->")[0]
    sections = middle.split("### ")[1:]
    assert sections
    for section in sections:
        assert "python -m benchmarks.judge_load" in section and "cores" in section
        assert section.count("\n| ") >= 4


def test_the_readme_names_files_that_there_are():
    text = (ROOT / "judge/README.md").read_text()
    for word in text.replace("`", " ").split():
        if word.startswith("judge/") and not word.endswith("/"):
            assert Path(ROOT / word.rstrip(".,:;)")).exists(), word
