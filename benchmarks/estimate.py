"""`unime estimate` beside the clock: predicted and measured seconds of training steps.

python -m benchmarks.estimate [--run runs/mini] [--steps 20] [--rounds 3]

The share of the peak that a machine reaches is measured on one recipe, the warm-up of recipes/mini; with
it the time of other steps is predicted: other batches, other losses, adapters alone, checkpointing.
`worst_error`: how far the worst of those predictions is from the median of what was measured. Needs
the data and selected rows of a finished run.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.common import report, say

WARMUP, CONTRAST = "recipes/mini/2_warmup.yaml", "recipes/mini/6_contrast.yaml"
LORA = ["tune.method=lora", "tune.parts=[language]", "tune.r=16"]
SETTINGS: dict[str, tuple[str, list[str]]] = {
    "warm-up": (WARMUP, []),
    "hard negatives": (CONTRAST, []),
    "adapters alone": (WARMUP, LORA),
    "batch 192 in two passes": (
        WARMUP,
        ["training.per_device_train_batch_size=192", "budget.tokens=6000"],
    ),
    "checkpointing": (WARMUP, ["training.gradient_checkpointing=true"]),
}
"""Name -> recipe and overrides; the first one tells the machine's rate."""
WARM = 2
"""The first steps allocate memory, and don't count."""


def main(
    run: Annotated[Path, typer.Option(help="A finished run of recipes/mini.")] = Path("runs/mini"),
    steps: int = 20,
    rounds: int = 3,
) -> None:
    """Measure and print one JSON line."""
    common = [
        f"run={run}",
        f"training.max_steps={steps}",
        "training.eval_steps=100000",
        "training.save_steps=100000",
        "training.logging_steps=1",
    ]
    flops = {
        name: predicted_flops(path, [*common, *more], steps)
        for name, (path, more) in SETTINGS.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in SETTINGS}
    for number in range(rounds):
        for name, (path, more) in SETTINGS.items():
            seconds[name].append(measured_seconds(path, [*common, *more]))
            say(f"round {number + 1}/{rounds} {name}: {seconds[name][-1]:.3f} s a step")
    first, *others = SETTINGS
    errors = {
        name: statistics.median(
            flops[name] / (flops[first] / known) / found - 1
            for known, found in zip(seconds[first], seconds[name], strict=True)
        )
        for name in others
    }
    report(
        "estimate",
        {"worst_error": round(max(map(abs, errors.values())), 3)},
        errors={name: round(value, 3) for name, value in errors.items()},
        seconds={name: round(statistics.median(found), 3) for name, found in seconds.items()},
        tflop_a_step={name: round(value / 1e12, 3) for name, value in flops.items()},
        gflops=round(flops[first] / statistics.median(seconds[first]) / 1e9, 1),
        steps=steps,
        rounds=rounds,
    )


def predicted_flops(path: str, overrides: list[str], steps: int) -> float:
    """Return what `unime estimate` counts for a mean step of those that are measured."""
    from unime.core.config import load_recipe
    from unime.train.contrast import ContrastRecipe
    from unime.train.estimate import count

    recipe = load_recipe(path, ContrastRecipe, overrides)
    return count(recipe, 1, range(WARM, steps)).flops


def measured_seconds(path: str, overrides: list[str]) -> float:
    """Train some steps and return the mean seconds of one; the first ones warm up."""
    from unime.core.stage import execute

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        execute("unime.train.contrast", path, [*overrides, f"output={out}"])
        speed, train = (
            [json.loads(line) for line in (out / name).read_text().splitlines()]
            for name in ("speed.jsonl", "train.jsonl")
        )
    encodes = {row["step"]: row["encodes"] for row in train if "encodes" in row}
    found = [encodes[row["step"]] / row["items_per_second"] for row in speed if row["step"] > WARM]
    return statistics.mean(found)


if __name__ == "__main__":
    typer.run(main)
