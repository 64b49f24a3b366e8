"""The losses again, as loops over Python numbers: slow, plain, and written from the formulas."""

from __future__ import annotations

import math

from unime.losses import ContrastBatch, RelationBatch


def info_nce(
    batch: ContrastBatch,
    temperature: float,
    in_batch: bool = True,
    threshold: float | None = None,
    hardest: int | None = None,
    symmetric: bool = False,
) -> float:
    query, candidates = batch.query.tolist(), batch.candidates.tolist()
    rows = range(len(query))
    forward, backward = [], []
    for i in rows:
        positive = _dot(query[i], candidates[int(batch.positive[i])])
        others = [
            _dot(query[i], candidates[j])
            for j in range(len(candidates))
            if j != int(batch.positive[i]) and _permitted(batch, i, j, in_batch)
        ]
        forward.append(_log_loss(positive, others, temperature, threshold, hardest))
    for i in rows:
        column, seen, others = int(batch.positive[i]), set(), []
        for j in rows:
            fresh = int(batch.query_id[j]) not in seen
            seen.add(int(batch.query_id[j]))
            same = int(batch.query_id[j]) == int(batch.query_id[i])
            if fresh and not same and _permitted(batch, j, column, in_batch):
                others.append(_dot(query[j], candidates[column]))
        positive = _dot(query[i], candidates[column])
        backward.append(_log_loss(positive, others, temperature, threshold, hardest))
    mean = sum(forward) / len(forward)
    return (mean + sum(backward) / len(backward)) / 2 if symmetric else mean


def soft_label(
    batch: ContrastBatch,
    temperature: float,
    judge_temperature: float,
    directions: str = "both",
    positive_floor: float | None = None,
) -> float:
    losses = []
    for i, query in enumerate(batch.query.tolist()):
        named = [int(batch.positive[i]), *(int(j) for j in batch.negatives[i])]
        scores = [float(s) for s in batch.scores[i]]
        kept: list[tuple[int, float]] = []
        for place, (j, score) in enumerate(zip(named, scores, strict=True)):
            absent = j < 0 or math.isnan(score) or j in named[:place]
            if not absent and (place == 0 or bool(batch.allowed[i, j])):
                kept.append((place, score))
        negatives = [score for place, score in kept if place > 0]
        if positive_floor is not None and negatives and kept[0][0] == 0:
            kept[0] = (0, max(kept[0][1], max(negatives) + positive_floor))
        if len(kept) < 2:
            continue
        cosines = [_dot(query, batch.candidates[named[place]].tolist()) for place, _ in kept]
        student = _softmax([c / temperature for c in cosines])
        judge = _softmax([score / judge_temperature for _, score in kept])
        losses.append(
            {
                "both": (_kl(student, judge) + _kl(judge, student)) / 2,
                "student_judge": _kl(student, judge),
                "judge_student": _kl(judge, student),
            }[directions]
        )
    return sum(losses) / len(losses) if losses else 0.0


def relational_kl(
    batch: RelationBatch,
    temperature: float,
    teacher_temperature: float | None,
    direction: str,
    exclude_diagonal: bool,
) -> float:
    student, teacher = _unit(batch.student.tolist()), _unit(batch.teacher.tolist())
    losses = []
    for i in range(len(student)):
        others = [j for j in range(len(student)) if j != i or not exclude_diagonal]
        ours = _softmax([_dot(student[i], student[j]) / temperature for j in others])
        scale = temperature if teacher_temperature is None else teacher_temperature
        theirs = _softmax([_dot(teacher[i], teacher[j]) / scale for j in others])
        losses.append(
            {
                "teacher_student": _kl(theirs, ours),
                "student_teacher": _kl(ours, theirs),
                "both": (_kl(theirs, ours) + _kl(ours, theirs)) / 2,
            }[direction]
        )
    return sum(losses) / len(losses)


def _permitted(batch: ContrastBatch, row: int, column: int, in_batch: bool) -> bool:
    own = column in [int(j) for j in batch.negatives[row]]
    return bool(batch.allowed[row, column]) and (in_batch or own)


def _log_loss(
    positive: float,
    others: list[float],
    temperature: float,
    threshold: float | None,
    hardest: int | None,
) -> float:
    if threshold is not None:
        others = [s for s in others if s <= positive + threshold]
    if hardest is not None:
        others = sorted(others, reverse=True)[:hardest]
    return -math.log(_softmax([s / temperature for s in [positive, *others]])[0])


def _softmax(values: list[float]) -> list[float]:
    top = max(values)
    weights = [math.exp(v - top) for v in values]
    return [w / sum(weights) for w in weights]


def _kl(left: list[float], right: list[float]) -> float:
    return sum(p * math.log(p / q) for p, q in zip(left, right, strict=True))


def _dot(left: list[float], right: list[float]) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True))


def _unit(rows: list[list[float]]) -> list[list[float]]:
    return [[v / math.sqrt(_dot(row, row)) for v in row] for row in rows]
