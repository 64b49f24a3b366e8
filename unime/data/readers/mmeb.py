"""MMEB: its training pairs, and its evaluation queries with a list of candidates each.

Training: qry, qry_image_path, pos_text, pos_image_path and perhaps neg_text, neg_image_path. Instruction
and `<|image_1|>` placeholder are part of the texts; some rows of the published data carry the placeholder
and have no image, so it says nothing about one. Splits: `original` and `diverse_instruction` (paraphrased
instructions, which stay in the text).

Evaluation: the first candidate is right. Two forms: v1 (qry_text, qry_img_path, tgt_text[], tgt_img_path[], instructions inside the texts)
and the later one with qry_inst and tgt_inst apart. Lists of one may be bare values; no image is
"", None, or an empty list.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unime.core.errors import DataError
from unime.data.items import Item, Pair
from unime.data.readers import cells, formats
from unime.data.readers.base import DataSource, ResolvedSource, RowError
from unime.data.readers.instructions import PLACEHOLDER, Instructions, as_known, known_tasks

EVAL_COLUMNS = ("qry_text", "qry_img_path", "tgt_text", "tgt_img_path")
MORE_EVAL_COLUMNS = ("qry_inst", "tgt_inst", "tgt_kind")
KINDS = "tgt_kind"

TRAIN_COLUMNS = ("qry", "qry_image_path", "pos_text", "pos_image_path")
MORE_TRAIN_COLUMNS = ("neg_text", "neg_image_path")


@dataclass(frozen=True, slots=True)
class EvalQuery:
    """One query of an evaluation set with its candidates."""

    query: Item
    candidates: tuple[Item, ...]
    gold: tuple[int, ...]
    """Places in `candidates` that are right; (0,) in MMEB."""
    query_instruction: str = ""
    target_instruction: str = ""
    kinds: tuple[str, ...] = ()
    """What sort of distractor each candidate is, where the data says so (column tgt_kind)."""


def read_eval(
    path: Path | str,
    *,
    root: Path | str | None = None,
    image_root: str = "",
    task: str = "",
    split: str | None = None,
    query_instruction: str | None = None,
    target_instruction: str | None = None,
) -> Iterator[EvalQuery]:
    """Yield the queries of one evaluation set, in the file's order.

    Args:
        path: a Parquet, JSON Lines or JSON file, or a folder that holds one.
        root: the data root that image locations are relative to; the data's folder by default.
        image_root: folder below the root that the image paths in the data are relative to.
        task: its name, for known instructions; the folder's or file's name by default.
        split: which split, where there are several.
        query_instruction: in place of the known one.
        target_instruction: in place of the known one.

    Raises:
        DataError: when anything is wrong with any row: an evaluation leaves nothing out.
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    given = as_known(
        {"query_instruction": query_instruction, "target_instruction": target_instruction}
    )
    job = ResolvedSource(
        source=DataSource(reader="mmeb_eval", path=str(path), split=split),
        root=Path(root) if root is not None else folder,
        path=path,
        task=task or path.stem,
        image_root=image_root,
        instructions=Instructions(known_tasks([folder, folder.parent]), given),
    )
    for file, number, values in formats.records(job):
        try:
            if isinstance(values, RowError):
                raise values
            yield query(values, job)
        except RowError as error:
            raise DataError(f"{path}: {file}, row {number}: {error}") from None
    job.instructions.report()


def query(values: dict[str, Any], job: ResolvedSource) -> EvalQuery:
    """Return the evaluation query of a row.

    Raises:
        RowError: when the row cannot be used.
    """
    cells.require(values, *EVAL_COLUMNS)
    raw = Item.of(
        cells.text(values["qry_text"], "query text"),
        cells.located_image(values["qry_img_path"], "query image", job),
    )
    candidates = cells.items(values["tgt_text"], values["tgt_img_path"], "candidate", job)
    if not candidates:
        raise RowError("no positive", "the row has no candidates")
    query_instruction, query_text = _split(
        raw.text, cells.optional(values, "qry_inst"), job, "query"
    )
    targets = [
        _split(item.text, cells.optional(values, "tgt_inst"), job, "target") for item in candidates
    ]
    found = EvalQuery(
        query=Item.of(query_text, raw.image),
        candidates=tuple(
            Item.of(content, item.image)
            for (_, content), item in zip(targets, candidates, strict=True)
        ),
        gold=(0,),
        query_instruction=query_instruction,
        target_instruction=targets[0][0],
        kinds=_kinds(cells.optional(values, KINDS), len(candidates)),
    )
    cells.checked(Pair(found.query, found.candidates, job.task))
    return found


def eval_pairs(values: dict[str, Any], job: ResolvedSource) -> list[Pair]:
    """Return query and right candidate as a pair; the distractors are evaluation's."""
    found = query(values, job)
    return [
        Pair(
            query=found.query,
            positives=tuple(found.candidates[i] for i in found.gold),
            task=job.task,
            query_instruction=found.query_instruction,
            target_instruction=found.target_instruction,
        )
    ]


def _split(text: str, given: Any, job: ResolvedSource, side: Any) -> tuple[str, str]:
    """Return (instruction, content), the instruction from its own column where there is one."""
    if given is None:
        return job.instructions.split(text, job.task, side)
    instruction = PLACEHOLDER.sub("", cells.text(given, f"{side} instruction"))
    return " ".join(instruction.split()), PLACEHOLDER.sub("", text).strip()


def _kinds(value: Any, candidates: int) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) != candidates:
        raise RowError("wrong type", f"{KINDS}: expected a list of {candidates}")
    return tuple(cells.text(kind, KINDS) for kind in value)


def train_pairs(values: dict[str, Any], job: ResolvedSource) -> list[Pair]:
    """Return the one pair of a row.

    Raises:
        RowError: when the row cannot be used.
    """
    cells.require(values, *TRAIN_COLUMNS)
    split, task = job.instructions.split, job.task
    query_instruction, query = split(cells.text(values["qry"], "query text"), task, "query")
    query_image = cells.located_image(values["qry_image_path"], "query image", job)
    raw = cells.items(values["pos_text"], values["pos_image_path"], "positive", job)
    negatives = cells.items(
        cells.optional(values, "neg_text"),
        cells.optional(values, "neg_image_path"),
        "negative",
        job,
    )
    targets = [split(item.text, task, "target") for item in (*raw, *negatives)]
    contents = [
        Item.of(content, item.image)
        for (_, content), item in zip(targets, (*raw, *negatives), strict=True)
    ]
    pair = Pair(
        query=Item.of(query, query_image),
        positives=tuple(contents[: len(raw)]),
        task=task,
        query_instruction=query_instruction,
        target_instruction=targets[0][0] if targets else "",
        # A row without negatives has them as "" or [""], depending on the subset.
        negatives=tuple(item for item in contents[len(raw) :] if item.text or item.image),
    )
    return [cells.checked(pair)]
