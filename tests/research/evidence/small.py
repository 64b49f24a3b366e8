"""A small grid whose stages are faked: what they write, and no more."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from research.evidence.grid import Grid, load_grid
from unime.core import files
from unime.core.config import _merge
from unime.core.contents import fingerprint
from unime.eval.scores import TaskScores
from unime.eval.task_file import save_task

TASKS = {"cats": ("overall", "classification", "ind"), "dogs": ("overall", "retrieval", "ood"), "swap_obj": ("compositional", "swap", None)}  # fmt: skip
QUERIES = 40


def small_grid(folder: Path, change: dict[str, Any] | None = None) -> Grid:
    """Write and load a grid of one table with rows a, b and both."""
    for stage in ("world", "contrast", "eval"):
        (folder / f"{stage}.yaml").write_text(f"stage: {stage}\n")
    values: dict[str, Any] = {
        "stage": "evidence",
        "output": str(folder / "results"),
        "runs": str(folder / "runs"),
        "readme": str(folder / "README.md"),
        "texts": [str(folder / "did_not_work.md")],
        "baselines": str(folder / "baselines.json"),
        "seeds": [1, 2, 3],
        "steps": {
            "world": {"recipe": str(folder / "world.yaml"), "seconds": 10, "set": {"seed": "${seed}"}},
            "train": {"recipe": str(folder / "contrast.yaml"), "seconds": 100, "set": {"data": "${world}"}},
            "eval": {"recipe": str(folder / "eval.yaml"), "seconds": 50, "set": {"model": "${train}/model", "root": "${world}"}},
        },
        "variants": {"noise": {"set": {"train": {"noise": 2, "lr": 1}}}},
        "tables": {
            "t": {
                "title": "A table", "question": "Which?", "minutes": 60, "against": ["a"],
                "rows": {
                    "a": {"title": "plain"},
                    "b": {"title": "noisy", "like": ["noise"], "figures": {"rate": "train/manifest.json:facts.rate"}},
                    "both": {"title": "both", "like": ["noise"], "set": {"train": {"noise": 3}}},
                    "later": {"title": "later", "missing": "Nobody wrote it."},
                },
            }
        },
    }  # fmt: skip
    path = folder / "grid.yaml"
    path.write_text(yaml.safe_dump(_merge(values, change or {}), sort_keys=False))
    (folder / "did_not_work.md").write_text("## What did not work\n\nThis.\n")
    means = {"overall": 3.0, "ind": 3.0, "ood": 3.0, "meta_task": {"retrieval": 3.0}}
    baselines = [{"name": "image_blind", **means, "compositional": {"swap_obj": 50.0}}]
    files.write_json(folder / "baselines.json", {"rows": baselines})
    return load_grid(path)


class FakeStages:
    """Runs the words of a command by writing what its stage would write; may be killed."""

    def __init__(
        self, die_after: int | None = None, fails: str = "none", seconds: float = 0
    ) -> None:
        self.ran: list[str] = []
        self.die_after, self.fails, self.seconds = die_after, fails, seconds
        self.at_once = self.most_at_once = 0

    def __call__(self, words: Sequence[str]) -> int:
        if self.die_after is not None and len(self.ran) == self.die_after:
            raise KeyboardInterrupt
        if f"/{self.fails}-" in " ".join(words[:5]):
            return 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        time.sleep(self.seconds)
        self.at_once -= 1
        return self._write(words)

    def _write(self, words: Sequence[str]) -> int:
        values = dict(word.split("=", 1) for word in words if "=" in word)
        folder = Path(values["output"])
        self.ran.append(folder.name)
        reads = {k: v for k, v in values.items() if "/runs/" in v and k != "output"}
        inputs = {key: fingerprint(Path(place)) for key, place in reads.items()}
        if "eval" in words[:2]:
            self._evaluate(folder, values)
        files.write_json(
            folder / "run.json",
            {"seconds": 20.0, "peak_gb": 1.0, "commit": "abc", "finished": "2026-01-01T00:00:00Z"},
        )
        manifest = {
            "recipe": values,
            "inputs": inputs,
            "facts": {"rate": 0.5, "seed": int(folder.parent.name)},
        }
        files.write_json(folder / "manifest.json", manifest)
        return 0

    def _evaluate(self, folder: Path, values: dict[str, str]) -> None:
        seed = int(folder.parent.name)
        benchmarks: dict[str, Any] = {}
        for number, (name, (role, meta_task, split)) in enumerate(TASKS.items()):
            # The train folder's name tells rows apart; noisy rows are worse.
            rng = np.random.default_rng([seed, number])
            rate = 0.6 if _recipe_of(values["model"]).get("noise") is None else 0.3
            hits = (rng.random(QUERIES) < rate).astype(float)
            scores = TaskScores(hits, {}, 0.0, {}, pa.table({"value": hits}))
            save_task(folder / "model" / role / f"{name}.parquet", scores)
            tasks = benchmarks.setdefault(role, {"role": role, "tasks": {}})["tasks"]
            tasks[name] = {"meta_task": meta_task, "split": split, "chance": 5.0}
        files.write_json(folder / "model/scores.json", {"benchmarks": benchmarks})
        files.write_json(folder / "results.json", {"rows": [{"name": "model", "overall": 1.0}]})


def _recipe_of(model: str) -> dict[str, str]:
    return files.read_json(Path(model).parent / "manifest.json")["recipe"]
