"""A tiny world on disk in the real layouts, and encoders that need no model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from unime.eval.pool import Pool

if TYPE_CHECKING:
    from unime.models.inputs import ModelInput

COLOURS = ["red", "green", "blue", "white", "black", "yellow", "cyan", "magenta"]
CATEGORIES = (
    "add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj",
)  # fmt: skip


def write_world(root: Path, queries: int = 6) -> Path:
    """Write two tasks in MMEB-eval's layout and the seven compositional files."""
    for colour in COLOURS:
        for folder in ("pictures", "images"):
            path = root / folder / f"{colour}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (56, 56), colour).save(path)
    tasks = {
        "colour_name": {
            "meta_task": "classification", "split": "ind", "in_batch": False,
            "query_instruction": "Name the colour of the picture", "target_instruction": "",
        },
        "colour_picture": {
            "meta_task": "retrieval", "split": "ood", "in_batch": True,
            "query_instruction": "Find the picture of this colour",
            "target_instruction": "Represent the given image",
        },
    }  # fmt: skip
    (root / "instructions.json").write_text(json.dumps(tasks))
    rows: dict[str, list] = {"colour_name": [], "colour_picture": []}
    for number in range(queries):
        order = [COLOURS[(number + step) % len(COLOURS)] for step in range(5)]
        kinds = ["", "near", "near", "random", "random"]
        rows["colour_name"].append(
            {
                "qry_text": f"<|image_1|>\nName the colour of the picture: number {number}",
                "qry_img_path": f"pictures/{order[0]}.png",
                "tgt_text": order,
                "tgt_img_path": [""] * 5,
                "tgt_kind": kinds,
            }
        )
        rows["colour_picture"].append(
            {
                "qry_text": f"Find the picture of this colour: {order[0]}",
                "qry_img_path": "",
                "tgt_text": ["<|image_1|>\nRepresent the given image."] * 5,
                "tgt_img_path": [f"pictures/{colour}.png" for colour in order],
                "tgt_kind": kinds,
            }
        )
    for task, values in rows.items():
        path = root / "eval" / task / "test.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(values), path)
    (root / "compositional").mkdir()
    for category in CATEGORIES:
        records = {
            str(number): {
                "filename": f"images/{colour}.png",
                "caption": f"a {colour} {category}",
                "negative_caption": f"no {colour} {category}",
            }
            for number, colour in enumerate(COLOURS)
        }
        (root / "compositional" / f"{category}.json").write_text(json.dumps(records))
    return root


def recipe(root: Path, output: Path, models: Sequence[str] = ("first", "second")) -> dict:
    return {
        "stage": "eval",
        "output": str(output),
        "models": [{"name": name, "model": {"id": f"fake/{name}"}} for name in models],
        "benchmarks": [
            {"name": "mini_mmeb", "root": str(root)},
            {"name": "mini_compositional", "root": str(root)},
        ],
        "results": str(output.parent / "results.json"),
    }


def unit(values: np.ndarray) -> np.ndarray:
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


class Constant:
    """The same embedding for everything; of a dimension where rounding would show."""

    def encode(
        self, encodes: Sequence[ModelInput], batch_size: int = 64, label: str = ""
    ) -> np.ndarray:
        return unit(np.tile(np.random.default_rng(0).normal(size=37), (len(encodes), 1)))


class Hashed:
    """A random embedding for every input, the same in every run; counts what it encodes."""

    def __init__(self, salt: str) -> None:
        self.salt = salt
        self.encoded = 0

    def encode(
        self, encodes: Sequence[ModelInput], batch_size: int = 64, label: str = ""
    ) -> np.ndarray:
        self.encoded += len(encodes)
        return unit(np.stack([self._vector(encode) for encode in encodes]))

    def _vector(self, encode: ModelInput) -> np.ndarray:
        pixels = encode.image.tobytes() if encode.image else b""
        text = f"{self.salt}|{encode.text}|{encode.side}|{encode.instruction}".encode()
        seed = int.from_bytes(hashlib.sha256(text + pixels).digest()[:8], "big")
        return np.random.default_rng(seed).normal(size=32)


class Broken(Hashed):
    """One embedding in NaN."""

    def encode(
        self, encodes: Sequence[ModelInput], batch_size: int = 64, label: str = ""
    ) -> np.ndarray:
        values = super().encode(encodes, batch_size, label)
        values[1, 0] = np.nan
        return values


def embed(pool: Pool, groups: Sequence[Sequence[int]]) -> np.ndarray:
    """Return one-hot embeddings: rows of one group alike, all other rows apart."""
    values = np.eye(len(pool), dtype=np.float32)
    for group in groups:
        values[list(group)] = values[group[0]]
    return values
