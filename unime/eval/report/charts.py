"""The charts of the report as Vega-Lite specifications; colours come from the page's theme."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from unime.eval.report.evaluations import BINS, Model
from unime.eval.report.run_history import StageHistory, cuts, judge_histograms

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
"""Names the language; nothing is fetched from there."""


def chart_specs(models: Sequence[Model], stages: Sequence[StageHistory]) -> dict[str, Any]:
    """Return the charts by the id of their place in the page; those without data are left out."""
    labels = [model.label for model in models]
    charts = {
        "overview": _overview(models, labels),
        "tasks": _tasks(models, labels),
        "curves": _curves(stages),
        "judge": _judge(stages),
        "similarities": _similarities(models),
    }
    return {name: chart for name, chart in charts.items() if chart is not None}


def _colour(labels: Sequence[str], **channel: Any) -> dict[str, Any]:
    legend = {"orient": "bottom", "columns": 1, "title": None}
    return {"field": "model", "type": "nominal", "sort": list(labels), "legend": legend, **channel}


def _overview(models: Sequence[Model], labels: Sequence[str]) -> dict[str, Any]:
    """The stages side by side: every benchmark's overall mean with its interval."""
    rows = [
        {"model": model.label, "benchmark": benchmark, **_numbers(facts["means"]["overall"])}
        for model in models
        for benchmark, facts in model.benchmarks.items()
    ]
    y = {"field": "model", "type": "nominal", "sort": list(labels), "title": None,
         "axis": {"labelLimit": 260}}  # fmt: skip
    layer = [
        {"mark": {"type": "bar", "height": {"band": 0.6}}, "encoding": {"x": _x("score", "score, %")}},
        {"mark": {"type": "rule", "strokeWidth": 2, "color": {"expr": "ink"}},
         "encoding": {"x": _x("low", "score, %"), "x2": {"field": "high"}}},
        {"mark": {"type": "tick", "thickness": 2, "color": {"expr": "muted"}, "height": {"band": 0.9}},
         "encoding": {"x": _x("chance", "score, %")}},
    ]  # fmt: skip
    for part in layer:
        part["encoding"] |= {"y": y, "tooltip": _tooltip("model", "score", "low", "high", "chance")}
    layer[0]["encoding"]["color"] = _colour(labels, legend=None)
    return _faceted(rows, layer, "benchmark", {"step": 24})


def _tasks(models: Sequence[Model], labels: Sequence[str]) -> dict[str, Any]:
    """Every task of every model with its interval."""
    rows = [
        {"model": model.label, "benchmark": benchmark, "task": task, "meta": facts["meta_task"],
         **_numbers(facts)}
        for model in models
        for benchmark, task, facts in model.tasks()
    ]  # fmt: skip
    order = list(dict.fromkeys(row["task"] for row in sorted(rows, key=lambda r: r["meta"])))
    shared = {
        "y": {"field": "task", "type": "nominal", "sort": order, "title": None},
        "yOffset": {"field": "model", "type": "nominal", "sort": list(labels)},
        "tooltip": _tooltip("task", "model", "score", "low", "high", "chance", "n"),
    }
    layer = [
        {"mark": {"type": "rule", "strokeWidth": 1.5},
         "encoding": {**shared, "x": _x("low", "score, %"), "x2": {"field": "high"},
                      "color": _colour(labels)}},
        {"mark": {"type": "point", "filled": True, "size": 40, "opacity": 1},
         "encoding": {**shared, "x": _x("score", "score, %"), "color": _colour(labels)}},
        {"mark": {"type": "tick", "thickness": 1.5, "color": {"expr": "muted"}},
         "encoding": {"y": shared["y"], "x": _x("chance", "score, %")}},
    ]  # fmt: skip
    return _faceted(rows, layer, "benchmark", {"step": max(5, 30 // max(1, len(models)) + 3)})


def _curves(stages: Sequence[StageHistory]) -> dict[str, Any] | None:
    """Loss and dev hit@1 of every training stage."""
    shown = {"loss": "loss", "eval_hit@1": "dev hit@1"}
    rows = [
        {"stage": stage.name, "step": record["step"], "what": title, "value": record[key]}
        for stage in stages
        for record in stage.curves()
        for key, title in shown.items()
        if key in record
    ]
    if not rows:
        return None
    mark = {"type": "line", "point": {"size": 18}, "strokeWidth": 2}
    encoding = {
        "x": {"field": "step", "type": "quantitative", "title": "step", "axis": {"tickMinStep": 1}},
        "y": {"field": "value", "type": "quantitative", "title": None, "scale": {"zero": False}},
        "color": {
            "field": "stage",
            "type": "nominal",
            "legend": {"orient": "bottom", "title": None},
        },
        "tooltip": _tooltip("stage", "step", "value"),
    }
    chart = _faceted(rows, [{"mark": mark, "encoding": encoding}], "what", 220)
    chart["resolve"] = {"scale": {"y": "independent", "x": "shared"}}
    return chart


def _judge(stages: Sequence[StageHistory]) -> dict[str, Any] | None:
    """What the judge gave to positives and candidates, with the selection's cuts."""
    rows = [
        {"stage": stage.name, **row}
        for stage in stages
        if stage.verb == "judge" and (stage.folder / "judged.parquet").is_file()
        for row in judge_histograms(stage)
    ]
    if not rows:
        return None
    lines = [cut for stage in stages if stage.verb == "select" for cut in cuts(stage)]
    bars = {
        "mark": {"type": "bar"},
        "encoding": {
            "x": {"field": "from", "type": "quantitative", "title": "judge: P(relevant)",
                  "bin": {"binned": True}, "scale": {"domain": [0, 1]}},
            "x2": {"field": "to"},
            "y": {"field": "count", "type": "quantitative", "title": "pairs"},
            "color": {"field": "kind", "type": "nominal", "legend": None},
            "tooltip": _tooltip("kind", "from", "to", "count"),
        },
    }  # fmt: skip
    rule = {
        "data": {"values": lines},
        "mark": {"type": "rule", "strokeDash": [4, 3], "color": {"expr": "ink"}},
        "encoding": {"x": {"datum": None, "field": "at", "type": "quantitative"},
                     "tooltip": _tooltip("cut", "at")},
    }  # fmt: skip
    del rule["encoding"]["x"]["datum"]
    chart = _faceted(rows, [bars, rule] if lines else [bars], "kind", 110)
    chart["resolve"] = {"scale": {"y": "independent"}}
    return chart


def _similarities(models: Sequence[Model]) -> dict[str, Any]:
    """How far right answers lie from the strongest wrong ones."""
    rows = []
    for model in models:
        for side, counts in model.similarities().items():
            total = max(1, sum(counts))
            there = [place for place, count in enumerate(counts) if count]
            for place in range(min(there, default=0), max(there, default=-1) + 1):
                rows.append(
                    {"model": model.label, "side": side, "share": round(counts[place] / total, 5),
                     "similarity": round(float(BINS[place] + BINS[place + 1]) / 2, 4)}
                )  # fmt: skip
    mark = {"type": "area", "opacity": 0.45, "interpolate": "monotone", "line": True}
    encoding = {
        "x": {"field": "similarity", "type": "quantitative", "title": "cosine similarity"},
        "y": {"field": "share", "type": "quantitative", "title": None, "stack": None,
              "axis": {"labels": False, "ticks": False}},
        "color": {"field": "side", "type": "nominal", "sort": ["gold", "wrong"],
                  "legend": {"orient": "bottom", "title": None}},
        "tooltip": _tooltip("model", "side", "similarity", "share"),
    }  # fmt: skip
    return _faceted(rows, [{"mark": mark, "encoding": encoding}], "model", 70)


def _faceted(
    rows: list[dict[str, Any]], layer: list[dict[str, Any]], by: str, height: Any
) -> dict[str, Any]:
    """One small chart below the other; the page sets the width to that of its column."""
    header = {"title": None, "labelAnchor": "start", "labelFontWeight": "bold", "labelLimit": 320}
    order = list(dict.fromkeys(row[by] for row in rows))
    facet = {"field": by, "type": "nominal", "header": header, "sort": order}
    return {
        "$schema": SCHEMA,
        "data": {"values": rows},
        "facet": facet,
        "columns": 1,
        "spec": {"height": height, "width": 400, "layer": layer},
        "resolve": {"scale": {"y": "independent"}},
    }


def _numbers(facts: dict[str, Any]) -> dict[str, Any]:
    return {key: facts[key] for key in ("score", "low", "high", "chance", "n") if key in facts}


def _x(field: str, title: str) -> dict[str, Any]:
    return {"field": field, "type": "quantitative", "title": title}


def _tooltip(*fields: str) -> list[dict[str, str]]:
    return [{"field": field} for field in fields]
