"""`unime eval run mteb:NAME`: mteb's own tasks with an exported model.

An export of ours goes through `unime.eval.mteb_model`, any other model through sentence-transformers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unime.core.errors import RecipeError, did_you_mean
from unime.eval.mteb import mteb_meta
from unime.eval.result_table import grid


def run_mteb(name: str, model: str, output: Path) -> str:
    """Run one task or benchmark of mteb; its result files go to `output`.

    Args:
        name: a task ("STSBenchmark") or a benchmark ("MIEB(lite)").
        model: a sentence-transformers folder or Hub id.
        output: mteb keeps finished tasks there and does not repeat them.

    Returns:
        The main scores as a table, in percent.

    Raises:
        RecipeError: when mteb is not installed or knows no such task or benchmark.
    """
    try:
        import mteb
    except ImportError:
        raise RecipeError("mteb is not installed: pip install 'unime[eval]'") from None
    tasks, loaded = _tasks(name), _load_for_mteb(model)
    cache = mteb.ResultCache(output)
    results = mteb.evaluate(loaded, tasks=tasks, cache=cache)
    lines = [[r.task_name, f"{100 * r.get_score():.2f}"] for r in results.task_results]
    return grid(["task", "main score"], lines)


def _tasks(name: str) -> Any:
    import mteb

    known_tasks = {task.metadata.name for task in mteb.get_tasks()}
    if name in known_tasks:
        return mteb.get_tasks(tasks=[name])
    benchmarks = {benchmark.name for benchmark in mteb.get_benchmarks()}
    if name in benchmarks:
        return mteb.get_benchmark(name)
    known = known_tasks | benchmarks
    raise RecipeError(f"mteb knows no task or benchmark '{name}'{did_you_mean(name, known)}")


def _load_for_mteb(model: str) -> Any:
    """Return one of our exports with its prompts by side, any other model as mteb takes it."""
    folder = Path(model)
    if any((place / "unime.json").is_file() for place in (folder, folder / "embedder")):
        return mteb_meta(folder).load_model()
    from unime.core.loading import load_sentence_transformer

    return load_sentence_transformer(model)
