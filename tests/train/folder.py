"""A small data folder of drawn pictures: captions to pictures, pictures to class names."""

from __future__ import annotations

import itertools
from pathlib import Path

import pyarrow as pa
from PIL import Image, ImageDraw

from unime.core import files
from unime.data.data_folder import DataFolder
from unime.data.items import content_id
from unime.data.tables import ITEMS, PAIRS, write_table

COLOURS = ("red", "green", "blue", "yellow", "white", "purple", "orange", "grey")
SHAPES = ("circle", "square", "triangle")


class FolderBuilder:
    """Collects items and pairs, then writes the tables."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.root = folder, folder / "images"
        self.root.mkdir(parents=True)
        self.items: dict[bytes, tuple[int, str, str | None, int | None]] = {}
        self.pairs: list[dict] = []
        self.tasks: dict[str, dict] = {}

    def item(self, text: str = "", picture: tuple[str, str] | None = None, size: int = 28) -> int:
        name = None
        if picture is not None:
            name = f"{'_'.join(picture)}_{size}.png"
            draw(self.root / name, *picture, size)
        key = content_id(text, None if name is None else (self.root / name).read_bytes())
        row = (len(self.items), text, name, None if name is None else size)
        return self.items.setdefault(key, row)[0]

    def pair(self, task: str, query: int, positives: list[int], **values) -> None:
        self.pairs.append(
            {
                "task": task,
                "query_instruction": f"find for {task}",
                "target_instruction": "represent this",
                "query": query,
                "positives": positives,
                "negatives": [],
                "scores": [],
                "split": "train",
                **values,
            }
        )

    def write(self, in_batch: dict[str, bool] | None = None) -> DataFolder:
        rows = sorted((row, key) for key, row in self.items.items())
        columns = {
            "content_id": [key for _, key in rows],
            "text": [row[1] for row, _ in rows],
            "image": [row[2] for row, _ in rows],
            "width": [row[3] for row, _ in rows],
            "height": [row[3] for row, _ in rows],
        }
        write_table(self.folder / "items.parquet", pa.table(columns, schema=ITEMS))
        pairs = {name: [pair[name] for pair in self.pairs] for name in PAIRS.names}
        arrays = [pa.array(pairs[field.name]).cast(field.type) for field in PAIRS]
        write_table(self.folder / "pairs.parquet", pa.Table.from_arrays(arrays, schema=PAIRS))
        tasks = [
            {
                "name": name,
                "in_batch": (in_batch or {}).get(name, True),
                "meta_task": "retrieval",
                "pairs": len(list(group)),
            }
            for name, group in itertools.groupby(sorted(p["task"] for p in self.pairs))
        ]
        files.write_json(self.folder / "tasks.json", tasks)
        files.write_json(self.folder / "manifest.json", {"facts": {"root": str(self.root)}})
        return DataFolder.open(self.folder)


def drawn_folder(folder: Path, in_batch: dict[str, bool] | None = None) -> DataFolder:
    """24 pictures: a caption finds its picture, a picture its colour and its two captions."""
    builder = FolderBuilder(folder)
    for number, (colour, shape) in enumerate(itertools.product(COLOURS, SHAPES)):
        picture = builder.item(picture=(colour, shape))
        captions = [builder.item(f"a {colour} {shape}"), builder.item(f"one {shape}, {colour}")]
        split = "dev" if number % 6 == 0 else "train"
        builder.pair("t2i", captions[0], [picture], split=split)
        builder.pair("i2t", picture, captions, split=split)
        builder.pair("colour", picture, [builder.item(colour)], split=split)
    return builder.write(in_batch)


def draw(path: Path, colour: str, shape: str, size: int) -> None:
    image = Image.new("RGB", (size, size), "black")
    pen, box = ImageDraw.Draw(image), (4, 4, size - 5, size - 5)
    if shape == "circle":
        pen.ellipse(box, fill=colour)
    elif shape == "square":
        pen.rectangle(box, fill=colour)
    else:
        pen.polygon([(size // 2, 4), (4, size - 5), (size - 5, size - 5)], fill=colour)
    image.save(path)
