"""Write what the tasks generate in the layouts that the readers know: MMEB-train, MMEB-eval, SugarCrepe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from research.world.candidate_lists import Listed
from research.world.examples import Example, ScenePicture, WorldContent, WorldTask
from research.world.render import crop, render
from research.world.truth import PLANTED, TRUTH, to_json
from unime.data import tables
from unime.data.items import content_id

PLACEHOLDER = "<|image_1|>\n"


@dataclass
class PictureWriter:
    """Draws pictures once each, into a folder."""

    folder: Path
    location: str
    """The folder's name in the tables."""
    _names: dict[ScenePicture, str] = field(default_factory=dict)
    _bytes: dict[ScenePicture, bytes] = field(default_factory=dict)

    def name(self, picture: ScenePicture | None) -> str:
        """Return where the picture lies, drawing it if new; "" for none."""
        if picture is None:
            return ""
        if picture not in self._names:
            name = f"{len(self._names):05d}.png"
            pixels = draw(picture)
            # Little to gain on flat 64 x 64 pictures from compressing harder.
            Image.fromarray(pixels).save(self.folder / name, compress_level=2)
            self._bytes[picture] = (self.folder / name).read_bytes()
            self._names[picture] = f"{self.location}/{name}"
        return self._names[picture]

    def content_id(self, content: WorldContent) -> bytes:
        """Return the identity that the readers will give a content."""
        self.name(content.picture)
        return content_id(
            content.text, self._bytes.get(content.picture) if content.picture else None
        )


def draw(picture: ScenePicture) -> np.ndarray:
    """Draw a picture, whole or cropped: uint8 (64, 64, 3)."""
    pixels = render(picture.scene)
    return pixels if picture.thing is None else crop(pixels, picture.scene.things[picture.thing])


def text_of(content: WorldContent, instruction: str) -> str:
    """Put placeholder, instruction and content together as MMEB's texts are."""
    text = instruction and (f"{instruction}: {content.text}" if content.text else f"{instruction}.")
    return (PLACEHOLDER if content.picture else "") + (text or content.text)


def train_table(task: WorldTask, examples: Sequence[Example], pictures: PictureWriter) -> pa.Table:
    """Return the columns of MMEB-train."""
    return pa.table(
        {
            "qry": [text_of(e.query, task.query_instruction) for e in examples],
            "qry_image_path": [pictures.name(e.query.picture) for e in examples],
            "pos_text": [text_of(e.target, task.target_instruction) for e in examples],
            "pos_image_path": [pictures.name(e.target.picture) for e in examples],
        }
    )


def eval_table(task: WorldTask, listed: Sequence[Listed], pictures: PictureWriter) -> pa.Table:
    """Return the columns of MMEB-eval, with each candidate's kind beside them."""

    def texts(row: Listed) -> list[str]:
        return [text_of(candidate, task.target_instruction) for _, candidate in row.candidates]

    return pa.table(
        {
            "qry_text": [text_of(row.query, task.query_instruction) for row in listed],
            "qry_img_path": [pictures.name(row.query.picture) for row in listed],
            "tgt_text": [texts(row) for row in listed],
            "tgt_img_path": [
                [pictures.name(c.picture) for _, c in row.candidates] for row in listed
            ],
            "tgt_kind": [[kind for kind, _ in row.candidates] for row in listed],
        }
    )


def truth_table(
    task: str, split: str, contents: Sequence[WorldContent], pictures: PictureWriter
) -> pa.Table:
    """Return the meaning of every distinct content."""
    meanings = {pictures.content_id(content): content.meaning for content in contents}
    ids = sorted(meanings)
    return pa.table(
        {
            "task": [task] * len(ids),
            "split": [split] * len(ids),
            "content_id": ids,
            "meaning": [to_json(meanings[i]) for i in ids],
        },
        schema=TRUTH,
    )


def planted_table(
    task: str, planted: Sequence[tuple[WorldContent, WorldContent, str]], pictures: PictureWriter
) -> pa.Table:
    """Return the planted false negatives by content ids."""
    rows = [(pictures.content_id(q), pictures.content_id(c), kind) for q, c, kind in planted]
    rows = sorted({row for row in rows if row[0] != row[1]})
    return pa.table(
        {
            "task": [task] * len(rows),
            "query": [query for query, _, _ in rows],
            "candidate": [candidate for _, candidate, _ in rows],
            "kind": [kind for _, _, kind in rows],
        },
        schema=PLANTED,
    )


def write_truth(folder: Path, parts: Sequence[Path]) -> None:
    """Join the parts of truth and planted list, in the order given."""
    for name, schema in (("truth", TRUTH), ("planted", PLANTED)):
        # Parts of an older version hold narrow strings.
        found = [tables.read_table(part / f"{name}.parquet").cast(schema) for part in parts]
        tables.write_table(folder / f"{name}.parquet", pa.concat_tables(found).combine_chunks())
