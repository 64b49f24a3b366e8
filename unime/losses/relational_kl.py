"""Relational distillation: the student's in-batch similarities follow the teacher's."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from unime.losses.records import RelationBatch

Direction = Literal["teacher_student", "student_teacher", "both"]


def relational_kl(
    batch: RelationBatch,
    *,
    temperature: float = 0.05,
    teacher_temperature: float | None = None,
    direction: Direction = "teacher_student",
    exclude_diagonal: bool = True,
) -> Float[Tensor, ""]:
    """Return the mean over texts of the KL divergence between similarity distributions.

        T_i = softmax over j of cos(teacher_i, teacher_j) / t_teacher
        S_i = softmax over j of cos(student_i, student_j) / t
        loss = mean over i of KL(T_i || S_i)

    Only similarities are compared, so the dimensions of student and teacher may differ. Fewer
    than two texts (three without the diagonal) carry no relation, and the loss is 0.

    Args:
        batch: embeddings of the same distinct texts; normalised here.
        temperature: t of the student; not published for UniME.
        teacher_temperature: t_teacher; the student's when None.
        direction: "teacher_student" is KL(T || S), "student_teacher" KL(S || T), "both" the mean.
        exclude_diagonal: leaves a text's similarity with itself out. It is 1 for every model and
            at low temperature takes nearly the whole distribution.

    Source: UniME (arXiv 2504.17432, eq. 2; the direction and the diagonal are ambiguous there).
    """
    teacher_temperature = temperature if teacher_temperature is None else teacher_temperature
    student = _log_relations(batch.student, temperature, exclude_diagonal)
    teacher = _log_relations(
        batch.teacher.to(batch.student.dtype), teacher_temperature, exclude_diagonal
    )
    forward = (teacher.exp() * (teacher - student)).sum(dim=1)
    backward = (student.exp() * (student - teacher)).sum(dim=1)
    chosen = {
        "teacher_student": forward,
        "student_teacher": backward,
        "both": (forward + backward) / 2,
    }[direction]
    return chosen.sum() / max(len(chosen), 1)


def _log_relations(
    embeddings: Float[Tensor, "batch dim"], temperature: float, exclude_diagonal: bool
) -> Float[Tensor, "batch others"]:
    unit = torch.nn.functional.normalize(embeddings, dim=1)
    similarity = unit @ unit.T / temperature
    if exclude_diagonal:
        count = len(unit)
        off_diagonal = ~torch.eye(count, dtype=torch.bool, device=unit.device)
        similarity = similarity[off_diagonal].reshape(count, max(count - 1, 0))
    return torch.log_softmax(similarity, dim=1)
