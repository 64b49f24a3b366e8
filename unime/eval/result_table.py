"""The readable table of a run. A star marks every mean over an incomplete set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

INCOMPLETE = "* mean over an incomplete set: tasks or queries were left out"


def results_table(
    rows: Sequence[Mapping[str, Any]],
    scores: Mapping[str, Any],
    order: Mapping[str, Sequence[str]],
) -> str:
    """Return all tables of a run as text.

    Args:
        rows: the rows of `results.json`.
        scores: the content of every model's `scores.json`, by model name.
        order: the tasks of each benchmark, both in the order to show them.
    """
    parts = ["Models: " + ", ".join(f"({i}) {row['name']}" for i, row in enumerate(rows, start=1))]
    for name, tasks in order.items():
        of_models = [scores[row["name"]]["benchmarks"][name] for row in rows]
        facts = of_models[0]
        parts.append(f"{name} (version {facts['version']}), {facts['metric']} in percent")
        parts.append(_means([row["name"] for row in rows], of_models))
        parts.append(_tasks(of_models, tasks))
        kinds = _kinds(of_models, tasks)
        if kinds:
            parts.append("hit@1 against the distractors of one kind alone, mean over tasks")
            parts.append(kinds)
    if any("incomplete" in row for row in rows):
        parts.append(INCOMPLETE)
    return "\n\n".join(parts) + "\n"


def _means(names: Sequence[str], of_models: Sequence[Mapping[str, Any]]) -> str:
    """One line a model: the means, the overall one with its 95 % interval; chance below."""
    # Sorted by name: meta_task/..., overall, split/ind, split/ood.
    groups = sorted(of_models[0]["means"], key=lambda group: (group != "overall", group))
    header = ["", *(group.rpartition("/")[2] for group in groups), "95 % interval"]
    lines = []
    for number, (name, facts) in enumerate(zip(names, of_models, strict=True), start=1):
        means = facts["means"]
        overall = means["overall"]
        lines.append(
            [
                f"({number}) {name}",
                *(_number(means[group]["score"], means[group]["complete"]) for group in groups),
                f"{overall['low']:.1f} to {overall['high']:.1f}",
            ]
        )
    chance = of_models[0]["means"]
    lines.append(["chance", *(f"{chance[group]['chance']:.1f}" for group in groups), ""])
    return grid(header, lines)


def _tasks(of_models: Sequence[Mapping[str, Any]], tasks: Sequence[str]) -> str:
    """One line a task and metric, one column a model."""
    header = ["task", "", "n", "chance", *(f"({i + 1})" for i in range(len(of_models)))]
    lines = []
    for task in tasks:
        facts = of_models[0]["tasks"][task]
        for metric, chance in facts["chance_by_metric"].items():
            if metric != facts["metric"] and not metric.startswith("R@"):
                continue
            values = [f"{model['tasks'][task]['metrics'][metric]:.1f}" for model in of_models]
            kind = ", ".join(filter(None, [facts["meta_task"], facts["split"], metric]))
            lines.append([task, kind, str(facts["n"]), f"{chance:.1f}", *values])
    return grid(header, lines)


def _kinds(of_models: Sequence[Mapping[str, Any]], tasks: Sequence[str]) -> str:
    kinds = dict.fromkeys(kind for task in tasks for kind in of_models[0]["tasks"][task]["by_kind"])
    lines = []
    for kind in kinds:
        having = [task for task in tasks if kind in of_models[0]["tasks"][task]["by_kind"]]
        means = [
            sum(model["tasks"][task]["by_kind"][kind]["score"] for task in having) / len(having)
            for model in of_models
        ]
        lines.append([kind, str(len(having)), *(f"{mean:.1f}" for mean in means)])
    header = ["kind", "tasks", *(f"({i + 1})" for i in range(len(of_models)))]
    return grid(header, lines) if lines else ""


def grid(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Align columns: the first to the left, numbers to the right."""
    widths = [max(len(line[i]) for line in [header, *lines]) for i in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in [header, *lines]
    )


def _number(value: float, complete: bool) -> str:
    return f"{value:.1f}{'' if complete else '*'}"
