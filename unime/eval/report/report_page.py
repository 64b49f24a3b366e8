"""`unime eval report`: one self-contained HTML page about evaluations and their runs.

Everything it shows is read from finished outputs; nothing is computed that they do not say. The
page holds its own copy of Vega and of all pictures, and asks the network for nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from unime.core import console, files
from unime.core.errors import DataError
from unime.core.overwrite import check_replaceable, contains
from unime.eval.compare import compare
from unime.eval.report.evaluations import Model

TEMPLATE = "page.html.j2"
MARK = "eval report</code>"
"""What tells a report, which may be written over, from another file; also in pages of 0.1.0."""


def write_report(runs: Sequence[Path], output: Path | None = None) -> Path:
    """Write the page and return where it is.

    Args:
        runs: run folders (`runs/mini`) or outputs of an evaluation (`runs/mini/9_eval`).
        output: the page; `report.html` in the first folder by default.

    Raises:
        DataError: when a folder holds no finished evaluation.
        OutputError: when the file is there and is no report.
    """
    from unime.eval.report.charts import chart_specs
    from unime.eval.report.evaluations import find_evaluations
    from unime.eval.report.gallery import gallery
    from unime.eval.report.run_history import judge_opinions, stages_of

    path = output or runs[0] / "report.html"
    check_replaceable(path, contains(MARK), "unime eval report")
    evaluations = [found for run in runs for found in find_evaluations(run)]
    stages = [stage for run in runs for stage in stages_of(run)]
    models = [model for evaluation in evaluations for model in evaluation.models]
    console.log(f"report on {len(models)} models, {len(stages)} stages")
    failures = gallery(evaluations, judge_opinions(stages))
    page = {
        "title": " and ".join(dict.fromkeys(run.name for run in runs)),
        "models": models,
        "groups": _groups(models),
        "stages": stages,
        "charts": chart_specs(models, stages),
        "pairs": all_pairs(models),
        "gallery": failures,
    }
    files.write_text(path, render(page))
    return path


def render(page: dict[str, Any]) -> str:
    """Return the HTML of a page's content."""
    import jinja2
    import vl_convert

    from unime.eval.report.run_history import origins

    folder = Path(__file__).parent
    # Its stub asks for what is optional.
    bundle = vl_convert.javascript_bundle()  # pyright: ignore[reportCallIssue]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["script"] = _as_script
    environment.globals["origins"] = origins
    return environment.get_template(TEMPLATE).render(
        **page,
        # A script element ends at the first "</script" whatever the language says around it.
        vega=bundle.replace("</script", "<\\/script"),
        script=(folder / "page.js").read_text(encoding="utf-8"),
        style=(folder / "page.css").read_text(encoding="utf-8"),
    )


def _as_script(value: Any) -> str:
    """Return JSON that may stand inside a script element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _groups(models: Sequence[Any]) -> list[dict[str, Any]]:
    """Return the columns of the overview: benchmark and mean, all models' in order."""
    found: dict[tuple[str, str], None] = {}
    for model in models:
        for benchmark, facts in model.benchmarks.items():
            # The mean over all first, then meta-tasks, then IND and OOD.
            for group in sorted(facts["means"], key=lambda g: (g != "overall", g)):
                found[benchmark, group] = None
    return [{"benchmark": benchmark, "group": group} for benchmark, group in found]


def all_pairs(models: Sequence[Model]) -> dict[str, list[dict[str, Any]]]:
    """Return the differences by "A|B", numbers of the models; pairs on other data are left out."""
    found = {}
    for first, second in combinations(range(len(models)), 2):
        try:
            compared = compare(models[first].folder, models[second].folder)
        except DataError as error:
            console.log(f"not compared: {error}")
            continue
        found[f"{first}|{second}"] = [
            {
                "benchmark": benchmark,
                "task": d.name,
                "difference": round(d.difference, 2),
                "low": round(d.low, 2),
                "high": round(d.high, 2),
                "p": round(d.corrected if d.corrected == d.corrected else d.p, 5),
            }
            for benchmark, differences in compared.items()
            for d in differences
        ]
    return found
