"""The page: it says what the files say, and its intervals are a plain bootstrap's."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from research.evidence.bootstrap import resampled
from research.evidence.compare import difference, results_of
from research.evidence.grid import GRID, Cell, Grid, load_grid
from research.evidence.repeats import noise_of
from research.evidence.result import load_result, path_of
from research.evidence.run import interval_of, run_cells
from research.evidence.tables import filled, page, write_page
from tests.conftest import ROOT
from tests.research.evidence.small import FakeStages, small_grid
from unime.core.errors import DataError, RecipeError


def test_the_committed_page_says_what_the_committed_files_say(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    grid = load_grid(GRID)
    assert Path(grid.readme).read_text() == page(grid), "run `python -m research.evidence tables`"
    assert grid.front is not None
    front = Path(grid.front).read_text()
    assert "<!-- evidence: " in front
    assert filled(grid, front) == front, "run `python -m research.evidence tables`"


def test_committed_results_are_small_and_agree_with_themselves(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    grid = load_grid(GRID)
    for table in grid.tables:
        for results in results_of(grid, table).values():
            for result in results:
                path = path_of(grid, Cell(table, result.row, result.seed))
                # Outcomes and scores, and each step's recipe: 25 kB for a chain of ten.
                assert path.stat().st_size <= 8_000 + 1_700 * len(result.steps), path
                if grid.tables[table].rows[result.row].figures_only:
                    assert result.figures and not result.outcomes, path
                    continue
                assert result.score("overall") == pytest.approx(result.scores["overall"], abs=1e-3)
                for name, score in result.scores["datasets"].items():
                    assert result.score(name) == pytest.approx(score, abs=1e-3)


@pytest.fixture
def done(tmp_path: Path) -> Grid:
    grid = small_grid(tmp_path)
    run_cells(grid, [*grid.cells("t", "a"), *grid.cells("t", "b")], FakeStages())
    return grid


def test_the_front_page_shows_the_rows_it_marks(done: Grid, tmp_path: Path):
    front = tmp_path / "front.md"
    front.write_text("before\n<!-- evidence: t a b -->\nold\n<!-- end -->\nafter\n")
    grid = done.model_copy(update={"front": str(front)})
    write_page(grid)
    text = front.read_text()
    assert text.startswith("before\n<!-- evidence: t a b -->\n| ") and text.endswith("\nafter\n")
    assert "old" not in text
    (line,) = re.findall(r"^\| noisy .*$", text, re.MULTILINE)
    rows = results_of(grid, "t")
    found = difference(rows["b"], rows["a"], "overall")
    assert found is not None
    assert f"| {np.mean([result.score('overall') for result in rows['b']]):.1f} |" in line
    assert f"| {found[0]:+.1f} ({found[1]:+.1f} to {found[2]:+.1f}) |" in line
    write_page(grid)
    assert front.read_text() == text
    with pytest.raises(DataError, match=r"rows of table 't' that are not run: \['both'\]"):
        filled(grid, "<!-- evidence: t a both -->\n<!-- end -->")


def test_a_curve_has_a_point_for_each_row_and_the_ends_of_its_interval(tmp_path: Path):
    figures = {"figures": {"rate": "train/manifest.json:facts.rate"}}
    curve = {"rows": ["b", "a"], "figure": "rate"}
    grid = small_grid(tmp_path, {"tables": {"t": {"curve": curve, "rows": {"a": figures}}}})
    run_cells(grid, grid.cells("t", "b"), FakeStages())
    run_cells(grid, grid.cells("t", "a", [1, 2]), FakeStages())
    assert "mermaid" not in page(grid)
    run_cells(grid, grid.cells("t", "a"), FakeStages())
    text = page(grid)
    assert '    x-axis "rate" ["0.5", "0.5"]\n' in text
    lows, means, highs = [
        [float(value) for value in line.split(", ")]
        for line in re.findall(r"^    line \[(.*)\]$", text, re.MULTILINE)
    ]
    for place, row in enumerate(["b", "a"]):
        results = results_of(grid, "t")[row]
        mean = np.mean([result.score("overall") for result in results])
        assert means[place] == pytest.approx(mean, abs=0.01)
        assert (lows[place], highs[place]) == pytest.approx(
            interval_of(results, "overall"), abs=0.01
        )


def test_a_curve_of_published_numbers_is_drawn_beside_ours_from_one_row(tmp_path: Path):
    rows = {"a": {"published": "60"}, "b": {"published": "64.5"}}
    table = {"published": "A paper's", "curve": {"rows": ["a", "b"], "minus": "a"}, "rows": rows}
    grid = small_grid(tmp_path, {"tables": {"t": table}})
    run_cells(grid, [*grid.cells("t", "a"), *grid.cells("t", "b")], FakeStages())
    results = results_of(grid, "t")
    found = difference(results["b"], results["a"], "overall")
    assert found is not None
    assert f"    line [0.00, {found[0]:.2f}]\n    line [0.00, 4.50]\n" in page(grid)


def test_the_page_says_what_chance_does_once_all_repeats_are_there(tmp_path: Path):
    grid = small_grid(tmp_path, {"tables": {"t": {"repeats": ["a", "b"]}}})
    run_cells(grid, [*grid.cells("t", "a"), *grid.cells("t", "b", [1, 2])], FakeStages())
    assert "What chance does" not in page(grid)
    run_cells(grid, grid.cells("t", "b"), FakeStages())
    rows = results_of(grid, "t")
    own, bound = noise_of([[[r.score("overall") for r in rows[row]] for row in ("a", "b")]])
    found = difference(rows["a"], rows["b"], "overall")
    assert found is not None
    text = page(grid)
    assert f"- Table A table: plain; noisy. Up to {abs(found[0]):.1f} apart." in text
    assert f"deviation of {own:.2f} in overall" in text
    assert f"up to {bound:.1f} (95 %) by chance" in text
    for repeats, message in ((["a"], "names 'a' alone"), (["a", "c"], "row of repeats: 'c'")):
        with pytest.raises(RecipeError, match=message):
            small_grid(tmp_path, {"tables": {"t": {"repeats": repeats}}})


def test_rows_that_differ_by_chance_alone_stay_within_its_bound_in_95_of_100_cases():
    rng = np.random.default_rng(0)
    # Three worlds of unlike levels: three repeats of one training, two of another, and two rows.
    levels = rng.normal(37, 5, (4000, 2, 1, 3))
    scores = levels + rng.normal(0, 0.7, (4000, 2, 5, 3))
    noise = [noise_of([one[:3], two[:2]]) for one, two in scores.tolist()]
    apart = np.abs(scores[:, 0, 3].mean(axis=-1) - scores[:, 0, 4].mean(axis=-1))
    assert np.mean([own**2 for own, _ in noise]) == pytest.approx(0.7**2, rel=0.03)
    assert np.mean(apart <= [bound for _, bound in noise]) == pytest.approx(0.95, abs=0.01)


def test_rows_may_be_compared_with_those_above_them(tmp_path: Path):
    table = {"against": [], "above": True, "rows": {"later": {"missing": None}}}
    grid = small_grid(tmp_path, {"tables": {"t": table}})
    run_cells(grid, grid.cells("t"), FakeStages())
    rows = results_of(grid, "t")
    shown = {
        line.split(" | ")[0][2:]: line.split(" | ")
        for line in filled(grid, "<!-- evidence: t -->\n<!-- end -->").splitlines()
        if line.startswith("| ")
    }
    (column,) = [n for n, cell in enumerate(shown[""]) if cell == "minus the row above"]
    assert list(shown) == ["", "---", "plain", "noisy", "both", "later", "chance"]
    assert shown["plain"][column] == ""
    for row, above, title in (
        ("b", "a", "noisy"),
        ("both", "b", "both"),
        ("later", "both", "later"),
    ):
        found = difference(rows[row], rows[above], "overall")
        assert found is not None
        assert shown[title][column] == f"{found[0]:+.1f} ({found[1]:+.1f} to {found[2]:+.1f})"
    short = filled(grid, "<!-- evidence: t a b -->\n<!-- end -->")
    assert "minus the row above" in short and shown["noisy"][column] in short


def test_the_page_has_means_differences_floor_and_what_is_missing(done: Grid):
    text = write_page(done).read_text()
    results = results_of(done, "t")
    mean = np.mean([result.score("overall") for result in results["b"]])
    found = difference(results["b"], results["a"], "overall")
    assert found is not None
    assert found[1] <= found[0] <= found[2] < 0
    (line,) = re.findall(r"^\| noisy .*$", text, re.MULTILINE)
    assert f"| {mean:.1f} |" in line
    assert f"| {found[0]:+.1f} ({found[1]:+.1f} to {found[2]:+.1f}) | 0.5 | 1, 2, 3 |" in line
    assert "| chance | 5.0 |" in text
    assert "| floor: image blind (seed 0) | 3.0 |" in text
    assert "`python -m research.evidence run --table t`\n(looks at its test seeds: 1)" in text
    assert "- Not run (or by an older grid): both, seed 1, 2, 3" in text
    assert "- Not built: later. Nobody wrote it." in text
    assert text.endswith("## What did not work\n\nThis.\n")


def test_figures_of_few_rows_stand_below_by_seed_in_the_order_of_the_grid(tmp_path: Path):
    seed, rate = ("train/manifest.json:facts." + key for key in ("seed", "rate"))
    rows = {
        "b": {"figures": {"seed of it": seed, "rate": rate}},
        "both": {"figures": {"rate": rate}},
    }
    grid = small_grid(tmp_path, {"tables": {"t": {"rows": rows}}})
    run_cells(grid, grid.cells("t"), FakeStages())
    text = write_page(grid).read_text()
    assert re.search(r"^\|  \| overall .* \| rate \| seeds \|$", text, re.MULTILINE)
    lines = ['Of the row "noisy":', "", "|  | mean | seed 1 | seed 2 | seed 3 |"]
    assert "\n".join(lines) in text
    assert "| seed of it | 2 | 1 | 2 | 3 |" in text


def test_rows_of_other_queries_are_not_compared(done: Grid):
    results = results_of(done, "t")
    cut = results["b"][0].model_copy(deep=True)
    cats = cut.outcomes["cats"].model_copy(update={"n": 20})
    cut = cut.model_copy(update={"outcomes": {**cut.outcomes, "cats": cats}})
    with pytest.raises(DataError, match="were not evaluated on the same queries"):
        difference([cut], results["a"], "overall")


def test_only_common_seeds_are_compared(done: Grid):
    results = results_of(done, "t")
    some = difference(results["b"][:1], results["a"], "overall")
    own = results["b"][0].score("overall") - results["a"][0].score("overall")
    assert some is not None
    assert some[0] == pytest.approx(own)
    assert difference(results["b"][:1], results["a"][1:], "overall") is None


def naive(seeds: list[dict[str, np.ndarray]], resamples: int) -> np.ndarray:
    """Draw seeds, then queries, one by one."""
    rng = np.random.default_rng(7)
    means = []
    for _ in range(resamples):
        chosen = [seeds[i] for i in rng.integers(len(seeds), size=len(seeds))]
        means.append(
            np.mean(
                [
                    np.mean([rng.choice(values, len(values)).mean() for values in seed.values()])
                    for seed in chosen
                ]
            )
        )
    return np.array(means)


@pytest.mark.parametrize("spread", [0.0, 0.3])
def test_the_bootstrap_agrees_with_a_naive_one(spread: float):
    rng = np.random.default_rng(3)
    # Differences of hits: -1, 0, 1; sets of unequal size; seeds that differ, or not.
    seeds = [
        {
            name: rng.choice([-1.0, 0.0, 1.0], size, p=[0.2 - s / 4, 0.5, 0.3 + s / 4])
            for name, size in (("cats", 60), ("dogs", 25))
        }
        for s in (-spread, 0.0, spread)
    ]
    fast, slow = resampled(seeds, 4000), naive(seeds, 4000)
    assert fast.mean() == pytest.approx(slow.mean(), abs=0.01)
    assert fast.std() == pytest.approx(slow.std(), rel=0.08)
    assert np.allclose(
        np.quantile(fast, [0.025, 0.975]), np.quantile(slow, [0.025, 0.975]), atol=0.02
    )


def test_one_seed_gives_the_interval_over_its_queries_and_equal_draws():
    values = {"cats": (np.arange(50) % 3 == 0).astype(float)}
    assert np.array_equal(resampled([values]), resampled([values]))
    share = values["cats"].mean()
    assert resampled([values]).std() == pytest.approx((share * (1 - share) / 50) ** 0.5, rel=0.1)


def test_results_can_be_read_back(done: Grid):
    path = path_of(done, Cell("t", "a", 1))
    assert load_result(path).row == "a"
