"""`unime eval list`: what can be evaluated, and what others have published of it."""

from __future__ import annotations

from collections import Counter

from unime.eval.benchmark import known_benchmarks, load_benchmark
from unime.eval.published import published_text
from unime.eval.result_table import grid


def all_benchmarks() -> str:
    """Return one line a benchmark."""
    lines = []
    for name in known_benchmarks():
        benchmark = load_benchmark(name)
        tasks = (
            f"from {benchmark.tasks_file}" if benchmark.tasks_file else str(len(benchmark.tasks))
        )
        lines.append(
            [name, benchmark.version, benchmark.layout, benchmark.metric, tasks, benchmark.licence]
        )
    return grid(["benchmark", "version", "layout", "metric", "tasks", "licence"], lines)


def one_benchmark(name: str) -> str:
    """Return a benchmark's facts and tasks."""
    benchmark = load_benchmark(name)
    facts = "\n".join(
        f"{key}: {value}"
        for key, value in benchmark.model_dump(exclude={"tasks", "fetch"}).items()
        if value not in (None, "")
    )
    lines = [
        [task, definition.meta_task, definition.split or "", str(definition.queries or "")]
        for task, definition in benchmark.tasks.items()
    ]
    if not lines:
        return f"{facts}\n\nThe tasks are defined by the data ({benchmark.tasks_file})."
    others = published_text(benchmark.name)
    counts = Counter(definition.meta_task for definition in benchmark.tasks.values())
    groups = ", ".join(f"{count} {group}" for group, count in counts.items())
    table = grid(["task", "meta-task", "split", "queries"], lines)
    text = f"{facts}\n\n{table}\n\n{len(lines)} tasks: {groups}"
    return f"{text}\n\n{others}" if others else text
