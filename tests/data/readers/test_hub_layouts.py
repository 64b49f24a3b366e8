"""Data sets of the Hub in the forms that people have them in: cards, names of files, images inside rows."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.readers.hub_files import CARD, png, zipped
from tests.data.readers.local_hub import LocalHub
from tests.data.readers.sources import rows_of
from unime.data.images import load_rgb
from unime.data.readers.saved_data_sets import saved_to_parquet


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


def test_images_inside_the_rows_and_the_only_split(hub: LocalHub, root: Path) -> None:
    rows = {"image": {"bytes": png("blue"), "path": "a.png"}, "caption": "a blue field"}
    features = {
        "info": {
            "features": {
                "image": {"_type": "Image"},
                "caption": {"dtype": "string", "_type": "Value"},
            }
        }
    }
    plain = pa.Table.from_pylist([rows]).replace_schema_metadata(
        {"huggingface": json.dumps(features)}
    )
    buffer = io.BytesIO()
    pq.write_table(plain, buffer)
    hub.add("lab/photos", {"data/train-00000-of-00001.parquet": buffer.getvalue()})
    (read,) = rows_of(root, reader="folder", path="hub:lab/photos")
    (pair,) = read.pairs
    assert pair.task == "photos" and pair.query.image is not None
    assert load_rgb(root, pair.query.image).getpixel((0, 0)) == (0, 0, 255)


def test_tables_of_other_formats(hub: LocalHub, root: Path) -> None:
    hub.add(
        "lab/text", {"train.csv": b"anchor,positive\na,b\n", "test.csv": b"anchor,positive\nc,d\n"}
    )
    (read,) = rows_of(root, reader="sentence_transformers", path="hub:lab/text", split="test")
    assert read.pairs[0].query.text == "c"
    assert hub.fetched() == ["test.csv"]
    both = rows_of(root, reader="sentence_transformers", path="hub:lab/text", split="train+test")
    assert [r.pairs[0].query.text for r in both] == ["a", "c"]


def test_names_that_look_alike_are_two_files(hub: LocalHub, root: Path) -> None:
    files = {
        "README.md": CARD.format(
            configs="- {config_name: a b, data_files: 1.csv}\n- {config_name: a_b, data_files: 2.csv}"
        ).encode(),
        "1.csv": b"anchor,positive\none,x\n",
        "2.csv": b"anchor,positive\ntwo,x\n",
    }
    hub.add("lab/text", files)
    found = rows_of(root, reader="sentence_transformers", path="hub:lab/text", name="*")
    assert [(r.pairs[0].task, r.pairs[0].query.text) for r in found] == [
        ("a b", "one"),
        ("a_b", "two"),
    ]


def test_a_hub_without_a_card_is_read_by_its_files_names_and_as_own_data(
    hub: LocalHub, tmp_path: Path
) -> None:
    from unime.data.own_data.scan import scan_folder

    rows = [json.dumps({"file_name": f"{n}.png", "text": f"caption {n}"}) for n in range(3)]
    files = {f"{n}.png": png(colour) for n, colour in enumerate(("red", "lime", "blue"))}
    files["metadata.jsonl"] = "\n".join(rows).encode()
    hub.add("me/photos", {f"train/{name}": data for name, data in files.items()})
    (tmp_path / "run/raw").mkdir(parents=True)
    scan = scan_folder("hub:me/photos", tmp_path / "run/raw", None)
    assert scan.rejected == []
    assert sorted(p.captions[0] for p in scan.pictures) == [f"caption {n}" for n in range(3)]


def test_names_with_characters_of_patterns_are_themselves(hub: LocalHub, root: Path) -> None:
    configs = '- {config_name: "a[1]", data_files: 1.csv}\n- {config_name: a1, data_files: 2.csv}'
    files = {
        "README.md": CARD.format(configs=configs).encode(),
        "1.csv": b"anchor,positive\none,x\n",
        "2.csv": b"anchor,positive\ntwo,x\n",
        "a[1].zip": zipped({"a.png": png("red")}),
    }
    hub.add("lab/text", files)
    source = {"reader": "sentence_transformers", "path": "hub:lab/text", "name": "a[1]"}
    (read,) = rows_of(root, **source, archives="{name}.zip")
    assert (read.pairs[0].task, read.pairs[0].query.text) == ("a[1]", "one")


def test_saved_data_sets_keep_their_name(tmp_path: Path) -> None:
    import datasets

    datasets.Dataset.from_dict({"anchor": ["a"]}).save_to_disk(str(tmp_path / "a set"))
    path = saved_to_parquet(tmp_path / "a set", None, tmp_path)
    assert path.name.startswith("a_set-") and path.parent.name == "converted"
