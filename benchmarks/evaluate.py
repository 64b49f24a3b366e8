"""`python -m benchmarks.evaluate`: what an evaluation costs beside the encoding it needs.

`time_over_encoding`: a whole evaluation (reading, encoding, scoring, intervals, all files) over
encoding its distinct encodes alone with the same model. `score_36_tasks_seconds`: an MMEB's worth of
lists scored from embeddings that are there. `encodes_asked_over_done`: what encoding each distinct
input once saves.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.common import interleaved_rounds, median_ratio, medians, report, say

TASKS, QUERIES, CANDIDATES, DIM = 36, 1000, 1000, 512
BATCH_SIZE = 64


def main(
    world: Annotated[Path, typer.Option(help="A built world.")] = Path("runs/mini/0_world"),
    model: Annotated[str, typer.Option(help="A folder or Hub id.")] = "assets/student",
    limit: Annotated[int | None, typer.Option(help="Queries a task; all by default.")] = None,
    rounds: int = 3,
) -> None:
    """Measure and print one JSON line."""
    scored = score_seconds()
    say(f"36 tasks of 1,000 queries with 1,000 candidates each: {scored:.2f} s")
    recipe = _recipe(world, model, limit)
    pool, asked = _pool(recipe)
    seconds = interleaved_rounds(
        {"evaluate": lambda: _evaluate(recipe), "encode": lambda: _encode(recipe, pool)},
        rounds=rounds,
        warmup=0,
    )
    ratios = {
        "time_over_encoding": median_ratio(seconds, "evaluate", "encode"),
        "score_36_tasks_seconds": round(scored, 2),
        "encodes_asked_over_done": round(asked / len(pool), 2),
    }
    settings = {"distinct_encodes": len(pool), "encodes_without_sharing": asked, "limit": limit}
    report("evaluate", ratios, **settings, rounds=rounds, medians=medians(seconds))


def score_seconds() -> float:
    """Return the seconds to score 36 tasks, checks and intervals included."""
    from unime.eval.benchmark import load_benchmark
    from unime.eval.similarity import Vectors
    from unime.eval.summary import summarise

    generator = np.random.default_rng(0)
    total = TASKS * (QUERIES + CANDIDATES)
    values = generator.normal(size=(total, DIM)).astype(np.float32)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    benchmark = load_benchmark("mmeb_v1")
    tasks = [_lists(name, number, generator) for number, name in enumerate(benchmark.tasks)]
    start = time.perf_counter()
    vectors = Vectors(values, "given")
    summarise(benchmark, {task.name: task.score(vectors) for task in tasks}, None)
    return time.perf_counter() - start


def _lists(name: str, number: int, generator: np.random.Generator) -> Any:
    """Return a task whose queries list the task's candidates, each in an order of its own."""
    from unime.eval.runners.candidates import CandidateLists

    first = number * (QUERIES + CANDIDATES)
    order = np.tile(np.arange(CANDIDATES, dtype=np.int32), (QUERIES, 1))
    position = generator.permuted(order, axis=1).ravel()
    gold = np.zeros(QUERIES * CANDIDATES, dtype=bool)
    gold[::CANDIDATES] = True
    return CandidateLists(
        name=name,
        queries=first + np.arange(QUERIES, dtype=np.int32),
        candidates=first + QUERIES + np.arange(CANDIDATES, dtype=np.int32),
        position=position,
        offsets=np.arange(0, QUERIES * CANDIDATES + 1, CANDIDATES),
        gold=gold,
    )


def _recipe(world: Path, model: str, limit: int | None) -> Any:
    from unime.eval.stage import EvalRecipe

    config = {"id": model, "dtype": "float32", "min_pixels": 4096, "max_pixels": 4096,
              "max_length": 256}  # fmt: skip
    benchmarks = [{"name": name, "root": str(world), "limit": limit}
                  for name in ("mini_mmeb", "mini_compositional")]  # fmt: skip
    return EvalRecipe.model_validate(
        {
            "stage": "eval",
            "output": "set later",
            "models": [{"name": "student", "model": config}],
            "benchmarks": benchmarks,
            "batch_size": BATCH_SIZE,
        }
    )


def _pool(recipe: Any) -> tuple[Any, int]:
    from unime.eval.stage import read, select

    pool, tasks = read(select(recipe.benchmarks), 0.0)
    return pool, sum(task.encodes_without_sharing for group in tasks for task in group)


def _evaluate(recipe: Any) -> None:
    from unime.core.provenance import open_output
    from unime.eval.stage import inputs, run

    with tempfile.TemporaryDirectory() as folder:
        placed = recipe.model_copy(update={"output": f"{folder}/9_eval"})
        run(placed, open_output(placed, inputs(placed)))


def _encode(recipe: Any, pool: Any) -> None:
    """Encode the pool as well as one can: model loaded, inputs of one kind and length together."""
    from unime.eval.encode import LazyInputs, by_kind_and_length

    encoder = recipe.models[0].load()
    encoder.encode(LazyInputs(pool, by_kind_and_length(pool)), batch_size=BATCH_SIZE)


if __name__ == "__main__":
    typer.run(main)
