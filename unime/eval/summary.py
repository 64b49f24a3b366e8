"""From the tasks' scores to score files, means and result rows. Percent everywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from unime.eval.benchmark import Benchmark
from unime.eval.intervals import bootstrap, interval, macro, score_of
from unime.eval.scores import TaskScores


def summarise(
    benchmark: Benchmark, scores: Mapping[str, TaskScores], limit: int | None
) -> dict[str, Any]:
    """Return what `scores.json` says of one model on one benchmark.

    Args:
        benchmark: the definition.
        scores: by task, in the benchmark's order; maybe not of all its tasks.
        limit: if only the first queries of each task were evaluated, how many.
    """
    resampled = {
        name: bootstrap(task.values, f"{benchmark.name}/{name}") for name, task in scores.items()
    }
    tasks = {
        name: _describe_task(benchmark, name, task, resampled[name])
        for name, task in scores.items()
    }
    groups = {"overall": list(benchmark.tasks)}
    for name, definition in benchmark.tasks.items():
        groups.setdefault(f"meta_task/{definition.meta_task}", []).append(name)
        if definition.split is not None:
            groups.setdefault(f"split/{definition.split}", []).append(name)
        modality = definition.modality or benchmark.modality
        if len({task.modality for task in benchmark.tasks.values()}) > 1:
            groups.setdefault(f"modality/{modality}", []).append(name)
    means = {
        group: _mean(members, tasks, resampled, limit)
        for group, members in groups.items()
        if any(name in tasks for name in members)
    }
    counts = np.array([task["n"] for task in tasks.values()])
    values = np.array([task["score"] for task in tasks.values()])
    return {
        "version": benchmark.version,
        "role": benchmark.role,
        "metric": benchmark.metric,
        "limit": limit,
        "tasks": tasks,
        "means": means,
        "weighted_by_queries": _rounded(float((values * counts).sum() / counts.sum())),
    }


def result_row(
    name: str, benchmarks: Mapping[str, Mapping[str, Any]], cost: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a model's row of `results.json`.

    Args:
        name: the model's name in the recipe.
        benchmarks: what `summarise` returned, by benchmark.
        cost: `seconds` and `peak_gb` of the stage that made the model, None where unknown.
    """
    row: dict[str, Any] = {
        "name": name,
        "overall": None,
        "meta_task": {},
        "ind": None,
        "ood": None,
        "datasets": {},
        "compositional": {},
        "seconds": cost.get("seconds"),
        "peak_gb": cost.get("peak_gb"),
    }
    incomplete = {
        benchmark: [group for group, mean in scores["means"].items() if not mean["complete"]]
        for benchmark, scores in benchmarks.items()
    }
    if any(incomplete.values()):
        row["incomplete"] = {key: groups for key, groups in incomplete.items() if groups}
    row |= _shares(benchmarks, "score", "metrics")
    row["chance"] = _shares(benchmarks, "chance", "chance_by_metric")
    return row


def _shares(
    benchmarks: Mapping[str, Mapping[str, Any]], value: str, metrics: str
) -> dict[str, Any]:
    """Return one kind of value ("score" or "chance") of all benchmarks, each at its place."""
    found: dict[str, Any] = {"compositional": {}}
    for benchmark, scores in benchmarks.items():
        tasks = {task: facts[value] for task, facts in scores["tasks"].items()}
        if scores["role"] == "compositional":
            found["compositional"].update(tasks)
        elif scores["role"] == "retrieval":
            found.setdefault("retrieval", {})[benchmark] = {
                task: facts[metrics] for task, facts in scores["tasks"].items()
            }
        else:
            assert "overall" not in found, "two benchmarks with the role overall"
            found |= {"datasets": tasks, **_overall(scores["means"], value)}
    return found


def _overall(means: Mapping[str, Mapping[str, Any]], value: str) -> dict[str, Any]:
    return {
        "overall": means["overall"][value],
        "ind": means.get("split/ind", {}).get(value),
        "ood": means.get("split/ood", {}).get(value),
        "meta_task": {
            group.removeprefix("meta_task/"): mean[value]
            for group, mean in means.items()
            if group.startswith("meta_task/")
        },
    }


def _describe_task(
    benchmark: Benchmark, name: str, task: TaskScores, resampled: np.ndarray
) -> dict[str, Any]:
    definition = benchmark.tasks[name]
    metric = definition.metric or benchmark.metric
    low, high = interval(resampled)
    return {
        "score": percent(score_of(task.values)),
        "low": percent(low),
        "high": percent(high),
        "expected": percent(task.expected),
        "chance": percent(task.chance[metric]),
        "n": len(task.values),
        "queries": definition.queries,
        "metric": metric,
        "modality": definition.modality or benchmark.modality,
        "meta_task": definition.meta_task,
        "split": definition.split,
        "metrics": {key: percent(value) for key, value in task.metrics.items()},
        "chance_by_metric": {key: percent(value) for key, value in task.chance.items()},
        "by_kind": {
            kind: {"score": percent(facts.hit), "n": facts.queries, "won": facts.won}
            for kind, facts in task.by_kind.items()
        },
    }


def _mean(
    members: Sequence[str],
    tasks: Mapping[str, Mapping[str, Any]],
    resampled: Mapping[str, np.ndarray],
    limit: int | None,
) -> dict[str, Any]:
    """Return the macro mean of a group, marked where a task or queries are left out."""
    there = [name for name in members if name in tasks]
    low, high = interval(macro([resampled[name] for name in there]))
    return {
        "score": _rounded(float(np.mean([tasks[name]["score"] for name in there]))),
        "low": percent(low),
        "high": percent(high),
        "chance": _rounded(float(np.mean([tasks[name]["chance"] for name in there]))),
        "tasks": len(there),
        "of": len(members),
        "complete": len(there) == len(members) and limit is None,
    }


def percent(share: float | np.floating) -> float:
    """Return a share in [0, 1] as percent, rounded as stored."""
    return _rounded(100.0 * float(share))


def _rounded(value: float) -> float:
    return round(value, 4)
