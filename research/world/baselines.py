"""Reference scores that keep the world honest: too easy, too hard, or solvable without looking?

Five baselines: chance; image-blind; text-blind; bag of words; and a small dual tower trained by
in-batch contrast. On captions made false, image-blind is a classifier of true and false captions
trained on text alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from research.world import compositional
from research.world.text_only import caption_classifier
from research.world.towers import FrozenVisionTower, Input, Reference, Senses, train, words_of
from unime.core import console, files
from unime.core.overwrite import check_replaceable, has_keys
from unime.core.provenance import plan_of
from unime.data.items import Item
from unime.data.readers import DataSource, ResolvedSource, read, read_eval
from unime.data.readers.instructions import Instructions, known_tasks

MODELS = {
    "image_blind": Senses(pictures=False),
    "text_blind": Senses(texts=False),
    "bag_of_words": Senses(order=False),
    "contrastive": Senses(),
}
"""The trained baselines and what each may look at."""
CAPTION_TASK = "picture_to_caption"
"""The task whose instructions serve for scoring a caption against a picture."""

Row = dict[str, Any]
Tasks = dict[str, list[tuple[Input, Input]]]


def report(folder: str, student: str, seed: int, epochs: int, output: str | None) -> str:
    """Score all baselines on a built world; return the table and whether the gate holds.

    Args:
        folder: the output of `python -m research.world build`.
        student: the model whose vision tower the baselines see with.
        seed: of the baselines' training.
        epochs: passes over the training pairs.
        output: where to write the scores as JSON; nowhere if None.
    """
    root = Path(folder)
    recipe = {"folder": folder, "student": student, "seed": seed, "epochs": epochs}
    manifest = plan_of(recipe, {"world": root, "student": Path(student)})
    torch.manual_seed(seed)
    if output is not None:
        check_replaceable(
            Path(output), has_keys("rows", "problems"), "python -m research.world baselines"
        )
    tasks = read_training(root)
    evaluation = {p.parent.name: read_lists(p.parent, root) for p in _tests(root)}
    pairs = {
        path.stem: list(files.read_json(path).values())
        for path in sorted((root / "compositional").glob("*.json"))
    }
    facts = files.read_json(root / "instructions.json")
    rows = [_chance(evaluation, pairs, facts)]
    vision_tower = FrozenVisionTower(root, Path(student))
    for name, senses in MODELS.items():
        model = Reference(_vocabulary(tasks), vision_tower, senses)
        console.log(f"training the baseline {name}")
        train(model, tasks, epochs, np.random.default_rng(seed))
        row = _row(name, {task: hits(model, lists) for task, lists in evaluation.items()}, facts)
        row["compositional"] = {
            category: accuracy(_similarities(model, items, facts))
            for category, items in pairs.items()
        }
        rows.append(row)
    rows[1]["compositional"] = text_only_accuracy(pairs)
    problems = gate({row["name"]: row for row in rows})
    if output is not None:
        files.write_json(output, {"manifest": manifest, "rows": rows, "problems": problems})
    return "\n".join([_table(rows), *(problems or ["the gate holds"])])


def read_training(root: Path) -> Tasks:
    """Read the training pairs of every task."""
    tasks: Tasks = {}
    for path in sorted(root.glob("train/*/train.parquet")):
        name = path.parent.name
        instructions = Instructions(known_tasks([root]))
        source = DataSource(reader="mmeb_train", path=str(path))
        job = ResolvedSource(source, root, path, name, "", instructions)
        tasks[name] = [
            (Input(p.query, p.query_instruction), Input(p.positives[0], p.target_instruction))
            for row in read(job)
            for p in row.pairs
        ]
    return tasks


def _tests(root: Path) -> list[Path]:
    return sorted(root.glob("eval/*/test.parquet"))


def _vocabulary(tasks: Tasks) -> dict[str, int]:
    """Number the words of the training texts from 2: 0 is padding, 1 unknown."""
    counts: Counter[str] = Counter()
    for pairs in tasks.values():
        for pair in pairs:
            for side in pair:
                counts.update(words_of(side))
    return {word: number for number, word in enumerate(sorted(counts), start=2)}


class Lists(NamedTuple):
    """An evaluation set as numbers: candidate lists share their contents."""

    inputs: list[Input]
    """Every distinct query and candidate."""
    queries: np.ndarray
    """Their places among the inputs, int32 `(queries,)`."""
    candidates: list[np.ndarray]
    """One list a query, the gold first."""


def read_lists(folder: Path, root: Path) -> Lists:
    """Read an evaluation set."""
    places: dict[Input, int] = {}

    def place(item: Item, instruction: str) -> int:
        return places.setdefault(Input(item, instruction), len(places))

    queries, candidates = [], []
    for q in read_eval(folder, root=root):
        queries.append(place(q.query, q.query_instruction))
        listed = [place(candidate, q.target_instruction) for candidate in q.candidates]
        candidates.append(np.array(listed, np.int32))
    return Lists(list(places), np.array(queries, np.int32), candidates)


def hits(model: Reference, lists: Lists) -> float:
    """Return hit@1 in percent; a tie counts as a miss."""
    found = model.embed_all(lists.inputs)
    matrix = torch.stack([found[side] for side in lists.inputs])
    right = 0
    for query, listed in zip(lists.queries.tolist(), lists.candidates, strict=True):
        scores = matrix[listed] @ matrix[query]
        right += bool((scores[1:] < scores[0]).all())
    return 100 * right / len(lists.queries)


def _similarities(
    model: Reference, items: Sequence[Mapping[str, str]], facts: Mapping[str, Any]
) -> list[tuple[float, float]]:
    """Return the similarity of each picture to its caption and to its negative."""
    known = facts[CAPTION_TASK]

    def sides(item: Mapping[str, str]) -> tuple[Input, Input, Input]:
        return (
            Input(Item.of(image=item["filename"]), known["query_instruction"]),
            Input(Item.of(item["caption"]), known["target_instruction"]),
            Input(Item.of(item["negative_caption"]), known["target_instruction"]),
        )

    found = model.embed_all([side for item in items for side in sides(item)])
    embedded = [[found[side] for side in sides(item)] for item in items]
    # Equal bags of words must tie exactly, whatever the order of summation.
    return [
        (round(float(image @ true), 5), round(float(image @ false), 5))
        for image, true, false in embedded
    ]


def accuracy(scores: Sequence[tuple[float, float]]) -> float:
    """Return how often the caption scores higher, in percent; a tie counts half.

    Half, because a model that can't tell two texts apart knows nothing, and not less than nothing.
    """
    return 100 * sum((t > f) + 0.5 * (t == f) for t, f in scores) / len(scores)


def text_only_accuracy(pairs: Mapping[str, Sequence[Mapping[str, str]]]) -> dict[str, float]:
    """Train a text classifier on each category's training partition; score it on evaluation."""
    found = {}
    for category, items in pairs.items():
        score = _classifier(category)
        found[category] = accuracy(
            [(score(item["caption"]), score(item["negative_caption"])) for item in items]
        )
    return found


def _classifier(category: str, count: int = 3000) -> Callable[[str], float]:
    drawn = compositional.items(category, count, "train", np.random.default_rng(1))
    return caption_classifier([(item.caption, item.negative) for item in drawn])


def _chance(
    evaluation: Mapping[str, Lists],
    pairs: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> Row:
    scores = {
        task: 100 * float(np.mean([1 / len(listed) for listed in lists.candidates]))
        for task, lists in evaluation.items()
    }
    return _row("chance", scores, facts) | {"compositional": dict.fromkeys(pairs, 50.0)}


def _row(name: str, scores: Mapping[str, float], facts: Mapping[str, Any]) -> Row:
    """Return a result row: means over data sets, meta-tasks, IND and OOD."""

    def mean(key: str, value: str) -> float:
        return float(np.mean([score for t, score in scores.items() if facts[t][key] == value]))

    metas = sorted({facts[task]["meta_task"] for task in scores})
    return {
        "name": name,
        "overall": float(np.mean(list(scores.values()))),
        "meta_task": {meta: mean("meta_task", meta) for meta in metas},
        "ind": mean("split", "ind"),
        "ood": mean("split", "ood"),
        "datasets": dict(scores),
    }


def gate(rows: Mapping[str, Row]) -> list[str]:
    """Return what is wrong with the world, judged by its baselines; nothing if all is well."""
    problems = []
    overall = rows["contrastive"]["overall"]
    if not 35 <= overall <= 85:
        problems.append(f"contrastive overall is {overall:.1f}, expected 35 to 85")
    for task, score in rows["contrastive"]["datasets"].items():
        least = 2 * rows["chance"]["datasets"][task]
        if not least <= score <= 95:
            problems.append(f"contrastive on {task} is {score:.1f}, expected {least:.1f} to 95")
    for category, score in rows["bag_of_words"]["compositional"].items():
        if category.startswith("swap") and abs(score - 50) > 2:
            problems.append(f"bag_of_words on {category} is {score:.1f}, expected 48 to 52")
    for category, score in rows["image_blind"]["compositional"].items():
        if score > 55:
            problems.append(f"image_blind on {category} is {score:.1f}, expected at most 55")
    return problems


def _table(rows: Sequence[Row]) -> str:
    """Lay the scores out in a table, one line a data set or category."""
    names = [row["name"] for row in rows]
    lines = [f"{'':26}" + "".join(f"{name:>14}" for name in names)]
    for part in ("datasets", "compositional", "meta_task"):
        for key in rows[0][part]:
            lines.append(f"{key:26}" + "".join(f"{row[part][key]:14.1f}" for row in rows))
        lines.append("")
    for key in ("ind", "ood", "overall"):
        lines.append(f"{key:26}" + "".join(f"{row[key]:14.1f}" for row in rows))
    return "\n".join(lines)
