"""What a judge can't tell apart: `python -m benchmarks.judge_kinds [judge] [world] [queries]`.

Asked about the evaluation's lists of a generated world, whose distractors are of known kinds: the
answer's picture after one change, the relation turned round, attributes exchanged. For each kind the
AUC of right over wrong candidates, over all of a task's queries together: a judge's scores are cut at
one threshold for all. A judge looks at these lists to be measured, never to be trained or tuned.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

from benchmarks.common import report, say
from benchmarks.judge import MODEL
from unime.eval.benchmark import BenchmarkChoice, choose, specify
from unime.eval.pool import Pool
from unime.eval.runners.candidates import CandidateLists, read
from unime.judge.engine import Engine, JudgeInput, Request
from unime.judge.transformers_engine import TransformersOptions
from unime.judge.truth_report import auc

RANDOM = "random"
RANDOM_OF_A_LIST = 10
"""Distractors of no kind that are asked about."""


def main(
    judge: str = "assets/judge", world: str = "runs/mini/0_world", queries: str = "60"
) -> None:
    """Ask about the first queries of every task that has a training set."""
    values = {"model": {**MODEL, "id": judge}, "min_answer_mass": 0.0}
    engine = TransformersOptions.model_validate(values).engine(None)
    choice = BenchmarkChoice(name="mini_mmeb", root=world, limit=int(queries))
    benchmark = choose(choice)
    ratios: dict[str, float] = {}
    # By kind: one array for each task that has it.
    right: defaultdict[str, list[np.ndarray]] = defaultdict(list)
    wrong: defaultdict[str, list[np.ndarray]] = defaultdict(list)
    for name, task in benchmark.tasks.items():
        if task.split != "ind":
            continue
        pool = Pool()
        lists = read(specify(benchmark, choice, name), pool)
        scores, kinds = ask(engine, pool, lists, name)
        for kind in sorted(set(kinds) - {""}):
            right[kind].append(scores[kinds == ""])
            wrong[kind].append(scores[kinds == kind])
            ratios[f"{name}: {kind}"] = found = above(right[kind][-1], wrong[kind][-1])
            say(f"{name}, {kind}: {found} ({len(wrong[kind][-1])} wrong ones)")
    for kind in wrong:
        ratios[kind] = above(np.concatenate(right[kind]), np.concatenate(wrong[kind]))
        say(f"{kind}: {ratios[kind]}")
    report("judge_kinds", ratios, judge=judge, world=Path(world).name, queries=int(queries))


def ask(
    engine: Engine, pool: Pool, lists: CandidateLists, task: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return (n,) scores and (n,) kinds of distractor, "" for the right candidates."""
    assert lists.kinds is not None
    names = np.array(lists.kind_names, dtype=object)
    kind_of = np.where(lists.gold, "", names[lists.kinds])
    requests, kinds = [], []
    for number, query in enumerate(lists.queries.tolist()):
        entries = np.arange(lists.offsets[number], lists.offsets[number + 1])
        at_random = kind_of[entries] == RANDOM
        kept = np.concatenate([entries[~at_random], entries[at_random][:RANDOM_OF_A_LIST]])
        kinds.extend(kind_of[kept])
        for target in lists.candidates[lists.position[kept]].tolist():
            key = f"{query} {target}".encode()
            instruction = pool.entries[query].instruction
            sides = content(pool, query), content(pool, target)
            requests.append(Request(key, task, instruction, *sides))
    scores = [score.value for score in engine.score(requests)]
    return np.array(scores), np.array(kinds, dtype=object)


def content(pool: Pool, row: int) -> JudgeInput:
    """Return an entry of the pool as a judge sees it."""
    entry = pool.entries[row]
    if entry.image is None:
        return JudgeInput(entry.content, entry.text)
    image = pool.image(entry)
    assert image is not None
    return JudgeInput(entry.content, entry.text, image.copy, image.width * image.height)


def above(right: np.ndarray, wrong: np.ndarray) -> float:
    """Return how often a right candidate scores above a wrong one."""
    relevant = np.arange(len(right) + len(wrong)) < len(right)
    found = auc(np.concatenate([right, wrong]).astype(float), relevant)
    assert found is not None
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
