"""The published file forms of the compositional sets, as items of comparable pairs.

To add one: a function that reads a file, and one line in `FORMS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from unime.core import console
from unime.core.errors import DataError
from unime.core.yaml_files import read_json
from unime.data.readers import cells, formats
from unime.data.readers.base import DataSource, ResolvedSource, RowError
from unime.data.readers.instructions import Instructions
from unime.eval.order_metrics import Demands
from unime.eval.pool import Region

MAX_BYTES = 1 << 30
"""Of a JSON list of records, which is read as a whole."""


class Whole(NamedTuple):
    """A whole picture."""

    location: str


Content = str | Whole | Region
"""A caption, or a picture; locations are below the benchmark's root."""


class RowLocation(NamedTuple):
    """Where a benchmark's files and pictures are."""

    root: Path
    images: str
    """The folder below the root that names of pictures are relative to."""

    def below(self, name: str) -> str:
        """Return a picture's location below the root."""
        return f"{self.images.rstrip('/')}/{name}" if self.images else name


@dataclass(frozen=True)
class CompositionalItem:
    """One item: the pairs whose similarities are compared."""

    id: str
    pairs: tuple[tuple[Content, Content], ...]
    group: str = ""


@dataclass(frozen=True)
class Form:
    """A file form: how many pairs an item has, which must be the more similar ones, a reader."""

    demands: Demands
    read: Callable[[Path, RowLocation], Iterator[CompositionalItem]]

    @property
    def places(self) -> int:
        """How many pairs an item has."""
        return 1 + max(place for demand in self.demands for place in demand)


def _sugarcrepe(path: Path, place: RowLocation) -> Iterator[CompositionalItem]:
    """`{id: {filename, caption, negative_caption}}`. DataSource: Hsieh et al. 2023."""
    for key, record in _records(path, ("filename", "caption", "negative_caption")):
        picture = Whole(place.below(record["filename"]))
        yield CompositionalItem(
            key, ((picture, record["caption"]), (picture, record["negative_caption"]))
        )


def _plus_image(path: Path, place: RowLocation) -> Iterator[CompositionalItem]:
    """`[{id, filename, caption, caption2, negative_caption}]`, pictures and texts (ITT)."""
    for key, record in _records(path, _PLUS):
        picture = Whole(place.below(record["filename"]))
        yield CompositionalItem(key, tuple((picture, record[field]) for field in _PLUS[1:]))


def _plus_text(path: Path, place: RowLocation) -> Iterator[CompositionalItem]:
    """The same files, texts alone (TOT). DataSource: Dumpala et al. 2024, SugarCrepe++."""
    for key, record in _records(path, _PLUS):
        first, second, negative = (record[field] for field in _PLUS[1:])
        yield CompositionalItem(key, ((first, second), (first, negative), (second, negative)))


def _aro_region(path: Path, place: RowLocation) -> Iterator[CompositionalItem]:
    """`[{image_path, bbox_x, bbox_y, bbox_w, bbox_h, true_caption, false_caption, ...}]`.

    Grouped by `relation_name` or by the pair of `attributes`. DataSource: Yuksekgonul et al. 2023.
    """
    for key, record in _records(path, ("image_path", "true_caption", "false_caption")):
        try:
            box = [int(record[f"bbox_{side}"]) for side in "xywh"]
        except (KeyError, TypeError, ValueError):
            raise DataError(f"{path}: record '{key}' has no numbers bbox_x, _y, _w, _h") from None
        if box[2] <= 0 or box[3] <= 0:
            raise DataError(f"{path}: record '{key}' has an empty box {box}")
        picture = Region(place.below(record["image_path"]), *box)
        group = record.get("relation_name") or "_".join(record.get("attributes") or [])
        yield CompositionalItem(
            key, ((picture, record["true_caption"]), (picture, record["false_caption"])), group
        )


def _aro_order(path: Path, place: RowLocation) -> Iterator[CompositionalItem]:
    """Rows `images, correct_caption, hard_text_1, ..., hard_text_4`; the right caption is named.

    Also `image, caption_options` with the right one first, as ARO's own code makes them.
    """
    for number, record in _rows(path, place):
        if "caption_options" in record:
            captions = list(record["caption_options"])
        else:
            cells.require(record, "correct_caption", *(f"hard_text_{i}" for i in range(1, 5)))
            captions = [record["correct_caption"]] + [record[f"hard_text_{i}"] for i in range(1, 5)]
        if len(captions) != 5:
            raise DataError(f"{path}, row {number}: {len(captions)} captions, expected 5")
        picture = _cell(record, ("images", "image", "image_path"), place, number)
        yield CompositionalItem(str(number), tuple((picture, caption) for caption in captions))


def _winoground(path: Path, place: RowLocation) -> Iterator[CompositionalItem]:
    """Rows `id, image_0, image_1, caption_0, caption_1`. DataSource: Thrush et al. 2022.

    Pairs: caption 0 with image 0, caption 1 with image 0, caption 0 with image 1, 1 with 1.
    """
    for number, record in _rows(path, place):
        images = [_cell(record, (f"image_{i}",), place, number) for i in (0, 1)]
        captions = [str(record[f"caption_{i}"]) for i in (0, 1)]
        pairs = tuple((image, caption) for image in images for caption in captions)
        yield CompositionalItem(str(record.get("id", number)), pairs)


def _valse(path: Path, place: RowLocation) -> Iterator[CompositionalItem]:
    """`{id: {dataset, image_file, caption, foil, mturk: {caption, foil, other}, ...}}`.

    Valid are the items that at least two of three annotators confirmed. Pictures lie in a folder
    named by `dataset`. DataSource: Parcalabescu et al. 2022.
    """
    dropped = 0
    for key, record in _records(path, ("image_file", "caption", "foil")):
        votes = record.get("mturk")
        if not isinstance(votes, dict) or "caption" not in votes:
            raise DataError(f"{path}: record '{key}' has no votes mturk.caption")
        if votes["caption"] < 2:
            dropped += 1
            continue
        folder = f"{record['dataset']}/" if record.get("dataset") else ""
        picture = Whole(place.below(f"{folder}{record['image_file']}"))
        yield CompositionalItem(key, ((picture, record["caption"]), (picture, record["foil"])))
    if dropped:
        console.log(f"{path.name}: {dropped} items left out that annotators did not confirm")


_PLUS = ("filename", "caption", "caption2", "negative_caption")

# Of Winoground's four pairs, 0 and 3 are right.
_WINO_TEXT: Demands = ((0, 1), (3, 2))
_WINO_IMAGE: Demands = ((0, 2), (3, 1))

FORMS: dict[str, Form] = {
    "sugarcrepe": Form(((0, 1),), _sugarcrepe),
    "sugarcrepe_pp_itt": Form(((0, 2), (1, 2)), _plus_image),
    "sugarcrepe_pp_tot": Form(((0, 1), (0, 2)), _plus_text),
    "aro_region": Form(((0, 1),), _aro_region),
    "aro_order": Form(((0, 1), (0, 2), (0, 3), (0, 4)), _aro_order),
    "winoground_text": Form(_WINO_TEXT, _winoground),
    "winoground_image": Form(_WINO_IMAGE, _winoground),
    "winoground_group": Form(_WINO_TEXT + _WINO_IMAGE, _winoground),
    "valse": Form(((0, 1),), _valse),
}


def _records(path: Path, fields: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (id, record) of a JSON mapping or list, the named fields checked to be texts."""
    values = read_json(path, DataError, MAX_BYTES)
    if isinstance(values, list):
        values = {str(_id(record, number)): record for number, record in enumerate(values)}
    if not isinstance(values, dict) or not values:
        raise DataError(f"{path} holds no records; expected a mapping of ids to records, or a list")
    for key, record in values.items():
        for field in fields:
            if not isinstance(record, dict) or not isinstance(record.get(field), str):
                raise DataError(f"{path}: record '{key}' has no text '{field}'")
        yield str(key), record


def _id(record: Any, number: int) -> Any:
    # Ids of the published lists repeat across perturbations of one picture.
    return f"{number}:{record['id']}" if isinstance(record, dict) and "id" in record else number


def _rows(path: Path, place: RowLocation) -> Iterator[tuple[int, dict[str, Any]]]:
    source = DataSource(reader="rows", path=str(path))
    job = ResolvedSource(source, place.root, path, "", place.images, Instructions({}))
    for record in formats.records(job):
        if isinstance(record.values, RowError):
            raise DataError(f"{path}, row {record.number}: {record.values}")
        yield record.number, record.values


def _cell(record: dict[str, Any], names: tuple[str, ...], place: RowLocation, number: int) -> Whole:
    """Return the picture of the first of these columns that is there."""
    for name in names:
        location = cells.image(record.get(name), name, place.images)
        if location:
            return Whole(location)
    raise DataError(f"row {number}: no picture in {' or '.join(names)}")
