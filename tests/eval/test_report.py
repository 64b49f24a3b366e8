"""The report in a real browser: both themes, desktop and phone, nothing asked of the network."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.eval.small import Hashed, recipe, write_world
from unime.core import files
from unime.core.config import load_recipe
from unime.core.errors import DataError
from unime.core.stage import execute
from unime.eval import encode
from unime.eval import stage as eval_run
from unime.eval.report.report_page import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run folder with an evaluation, a training stage, a judge and a selection."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    world = write_world(folder / "0_world")
    values = recipe(world, folder / "9_eval")
    path = folder / "9_eval.json"
    path.write_text(json.dumps(values))
    with pytest.MonkeyPatch.context() as patch:
        given = {name: Hashed(name) for name in ("first", "second")}
        patch.setattr(encode, "load_encoder", lambda entry, device=None: given[entry.source[5:]])
        execute("unime.eval.stage", path)
    assert load_recipe(path, eval_run.EvalRecipe).results
    write_stages(folder)
    return folder


def write_stages(folder: Path) -> None:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    for name, values in {
        "2_warmup": {"stage": "contrast", "note": "</script><b>not markup</b>"},
        "4_judge": {"stage": "judge"},
        "5_select": {"stage": "select", "rule": "absolute", "absolute_cut": 0.7},
    }.items():
        manifest = {"recipe": values, "inputs": {}, "facts": {"rows": 3}, "format": 1}
        files.write_json(folder / name / "manifest.json", manifest)
        host = {
            "seconds": 12.0,
            "peak_gb": 1.5,
            "finished": "2026",
            "commit": "abc",
            "python": "3",
            "versions": {},
        }
        files.write_json(folder / name / "run.json", host)
    lines = [json.dumps({"step": s, "loss": 2 / s, "eval_hit@1": s / 9}) for s in range(1, 5)]
    files.append_lines(folder / "2_warmup/train.jsonl", lines)
    scores = np.random.default_rng(0).random((6, 5)).astype(np.float32)
    judged = {
        "pair": list(range(6)),
        "positive_score": scores[:, 0],
        "scores": scores[:, 1:].tolist(),
    }
    pq.write_table(pa.table(judged), folder / "4_judge/judged.parquet")


def test_the_page_holds_every_number_and_no_address(run, tmp_path):
    page = write_report([run], tmp_path / "page.html").read_text(encoding="utf-8")
    for name in ("first", "second"):
        scores = files.read_json(run / "9_eval" / name / "scores.json")["benchmarks"]
        for benchmark in scores.values():
            for facts in benchmark["tasks"].values():
                assert f'data-score="{facts["score"]}"' in page
    # The first plain script is Vega's.
    own = page.split("<script>")[0]
    assert not any(word in own for word in ('src="http', 'href="http', "@import", "url(http"))
    # What a recipe says is shown, not run.
    assert "</script><b>not markup" not in page and "not markup" in page


@pytest.mark.parametrize("stages", [[], ["2_warmup"], ["4_judge"], ["5_select"], ["2_warmup", "5_select"]])  # fmt: skip
def test_a_run_needs_no_stage_but_an_evaluation(run, tmp_path, stages):
    shutil.copytree(run / "9_eval", tmp_path / "9_eval")
    for stage in stages:
        shutil.copytree(run / stage, tmp_path / stage)
    for folder in (tmp_path, tmp_path / "9_eval"):
        page = write_report([folder], tmp_path / f"{folder.name}.html").read_text(encoding="utf-8")
        assert ('id="training"' in page) == ("2_warmup" in stages)
        assert ('id="judging"' in page) == ("4_judge" in stages)
        write_report([folder], tmp_path / f"{folder.name}.html")  # a report is written over


def test_a_folder_without_an_evaluation_is_one_clear_sentence(tmp_path):
    with pytest.raises(DataError, match="holds no evaluation; run `unime eval run` first"):
        write_report([tmp_path])


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_in_a_browser(run, tmp_path, theme, width):
    from playwright.sync_api import sync_playwright

    assert CHROMIUM, "apt-get install chromium"
    page_file = write_report([run], tmp_path / "page.html")
    scores = {
        name: files.read_json(run / "9_eval" / name / "scores.json")["benchmarks"]
        for name in ("first", "second")
    }
    asked, errors = [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page: Any = browser.new_page(
            viewport={"width": width, "height": 900}, color_scheme=theme, offline=True
        )
        page.set_default_timeout(120_000)
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
        page.goto(page_file.as_uri())
        for chart in ("overview", "tasks", "curves", "judge", "similarities", "deltas"):
            page.wait_for_selector(f"#chart-{chart} svg")
        assert page.evaluate("document.documentElement.dataset.theme") == theme
        # Nothing hangs over the edge of the screen.
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for cell in page.query_selector_all("td[data-score]"):
            facts = scores[cell.get_attribute("data-model")][cell.get_attribute("data-benchmark")]
            task, mean = cell.get_attribute("data-task"), cell.get_attribute("data-mean")
            value = facts["tasks"][task]["score"] if task else facts["means"][mean]["score"]
            assert float(cell.get_attribute("data-score")) == value
            assert cell.text_content().strip().startswith(f"{value:.1f}")
        cards = len(page.query_selector_all(".card"))
        page.select_option("#by-task", "colour_name")
        kinds = page.eval_on_selector_all("#by-kind option", "o => o.map(x => x.value)")
        assert "near" in kinds
        page.select_option("#by-kind", "near")
        assert 0 < len(page.query_selector_all(".card")) < cards
        assert page.query_selector(".card img").get_attribute("src").startswith("data:image/")
        page.click("#provenance summary")
        assert page.is_visible("#provenance pre")
        page.select_option("#first", "1")
        page.select_option("#second", "0")
        page.click("#theme")
        other = {"light": "dark", "dark": "light"}[theme]
        page.wait_for_selector(f"#chart-tasks[data-drawn={other}]")
        browser.close()
    assert not errors
    local = [url for url in asked if not url.startswith(("data:", "blob:"))]
    assert local == [page_file.as_uri()]
