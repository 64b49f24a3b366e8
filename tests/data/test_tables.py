"""Tables: equal values give equal bytes, and come back as they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.train.folder import drawn_folder
from unime.core import files
from unime.core.errors import DataError
from unime.data import tables
from unime.data.data_folder import DataFolder, Items
from unime.data.images import ImageError
from unime.data.items import Item, content_id
from unime.data.tables import list_matrix, read_table, write_table
from unime.data.training_rows import PairColumns, TrainingRows

ROW = st.fixed_dictionaries(
    {
        "pair": st.integers(0, 2**31 - 1),
        "candidates": st.lists(st.integers(-1, 2**31 - 1), max_size=4),
        "similarities": st.lists(st.floats(-1, 1, width=16), max_size=4),
        "positive_similarity": st.floats(width=16, allow_nan=False),
        "positive_rank": st.integers(1, 2**31 - 1),
    }
)


@given(st.lists(ROW, max_size=20))
def test_what_is_written_is_read_and_twice_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, object]]
) -> None:
    folder = tmp_path_factory.mktemp("t")
    for row in rows:
        row["similarities"] = [np.float16(v) for v in row["similarities"]]  # type: ignore[attr-defined]
        row["positive_similarity"] = np.float16(row["positive_similarity"])  # type: ignore[arg-type]
    table = pa.Table.from_pylist(rows, schema=tables.MINED)
    write_table(folder / "a.parquet", table)
    write_table(folder / "b.parquet", pa.concat_tables([table.slice(0, 3), table.slice(3)]))
    assert read_table(folder / "a.parquet").equals(table)
    assert (folder / "a.parquet").read_bytes() == (folder / "b.parquet").read_bytes()


def test_chosen_columns_and_errors(tmp_path: Path) -> None:
    write_table(tmp_path / "a.parquet", pa.table({"x": [1], "y": [2]}))
    assert read_table(tmp_path / "a.parquet", ["y"]).to_pydict() == {"y": [2]}
    with pytest.raises(DataError, match=r"none.parquet is missing; run the stage that writes it"):
        read_table(tmp_path / "none.parquet")
    (tmp_path / "b.parquet").write_bytes(b"PAR1 but cut")
    with pytest.raises(DataError, match=r"b.parquet is not a readable Parquet file"):
        read_table(tmp_path / "b.parquet")


@given(st.integers(0, 5), st.integers(1, 4), st.integers(1, 3))
def test_lists_of_one_length_are_a_matrix(rows: int, length: int, pieces: int) -> None:
    values = np.arange(rows * length, dtype=np.int32).reshape(rows, length)
    kind = pa.list_(pa.int32())
    column = pa.chunked_array([pa.array(v.tolist(), kind) for v in np.array_split(values, pieces)])
    found = list_matrix(column)
    assert found.shape == ((rows, length) if rows else (0, 0))
    assert found.tolist() == values.tolist()


@pytest.mark.parametrize("lists", [[[1], [2, 3]], [[1], [2, 3], [4, 5, 6]], [[1, 2], None]])
def test_lists_of_differing_lengths_are_an_error(lists: list[list[int] | None]) -> None:
    with pytest.raises(DataError, match="lists of differing lengths"):
        list_matrix(pa.chunked_array([lists]))


TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), max_size=12)


@given(TEXTS, st.integers(0, 4))
def test_items_come_back_from_any_piece_of_a_table(texts: list[str], skip: int) -> None:
    rows = [
        {
            "content_id": content_id(text, None),
            "text": text,
            "image": f"{i}.png" if i % 2 else None,
            "width": 3 if i % 2 else None,
            "height": i if i % 2 else None,
        }
        for i, text in enumerate(texts)
    ]
    items = Items(pa.Table.from_pylist(rows, schema=tables.ITEMS).slice(skip))
    kept = rows[skip:]
    assert len(items) == len(kept)
    for i, row in enumerate(kept):
        assert items.item(i) == Item.of(row["text"], row["image"])
        assert items.content_id(i) == row["content_id"]
    assert items.content_ids.shape == (len(kept), 16)
    pixels = [3 * (row["height"] or 0) for row in kept]
    assert items.sizes(list(range(len(kept)))).tolist() == pixels


def test_a_folder_without_manifest_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "items.parquet").write_bytes(b"")
    with pytest.raises(DataError, match="is no finished data folder; run `unime data` for it"):
        DataFolder.open(tmp_path)


def test_splits_and_pairs_by_row(tmp_path: Path) -> None:
    rows = [
        {"task": "t", "query_instruction": "i", "target_instruction": "", "query": 0,
         "positives": [1, 2], "negatives": [3], "scores": [0.5, 0.25], "split": "train"},
        {"task": "u", "query_instruction": "", "target_instruction": "j", "query": 4,
         "positives": [1], "negatives": [], "scores": [], "split": "dev"},
    ]  # fmt: skip
    write_table(tmp_path / "pairs.parquet", pa.Table.from_pylist(rows, schema=tables.PAIRS))
    files.write_json(tmp_path / "manifest.json", {"facts": {"root": "there"}})
    tasks = [{"name": n, "in_batch": n == "t", "meta_task": "m", "pairs": 1} for n in ("u", "t")]
    files.write_json(tmp_path / "tasks.json", tasks)
    folder = DataFolder.open(tmp_path)
    assert folder.root == Path("there")
    assert list(folder.tasks) == ["u", "t"]
    assert [folder.tasks[n].in_batch for n in ("u", "t")] == [False, True]
    assert (folder.split("train").tolist(), folder.split("dev").tolist()) == ([0], [1])
    assert folder.split("dev").dtype == np.int32
    assert [folder.pair(i)._asdict() for i in range(2)] == rows


def test_a_picture_that_was_changed_since_it_was_read_is_not_shown(tmp_path: Path) -> None:
    data = drawn_folder(tmp_path / "d")
    item = next(i for i in range(len(data.items)) if data.items.item(i).image)
    assert data.load_image(item) is not None
    path = data.root / str(data.items.item(item).image)
    Image.new("RGB", (28, 28), "pink").save(path)
    with pytest.raises(
        ImageError,
        match=r"^changed image: '.*' has other bytes than when `unime data` read it; put it back, or run "
        "`unime data` again with --restart$",
    ):
        data.load_image(item)


def test_a_flipped_byte_in_a_table_is_an_error_and_no_other_value(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    table = pa.table({"values": pa.array(rng.normal(size=4000), pa.float32())})
    path = tmp_path / "t.parquet"
    write_table(path, table)
    whole = path.read_bytes()
    refused = 0
    for place in rng.integers(0, len(whole), 200).tolist():
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            assert read_table(path).equals(table), place
        except DataError:
            refused += 1
    assert refused > 150


NARROW = Path(__file__).parent / "narrow_strings"
"""The output of `unime data` of before 2026-11: its texts are strings with 32-bit offsets."""


def test_tables_with_narrow_strings_are_read_as_before() -> None:
    schema = read_table(NARROW / "items.parquet").schema
    assert {schema.field(name).type for name in ("text", "image")} == {pa.string()}
    data = DataFolder.open(NARROW)
    assert [data.items.item(row) for row in (0, 2, 4)] == [
        Item.of("what is it?", "a.png"),
        Item.of("красное поле"),
        Item.of("", "b.png"),
    ]
    # Identities did not change with the type.
    texts = {row: data.items.item(row).text for row in (1, 2, 3, 5, 6, 7)}
    assert all(data.items.content_id(row) == content_id(text, None) for row, text in texts.items())
    assert data.items.sizes([0, 1, 4]).tolist() == [600, 0, 64]
    assert data.pair(1).positives == [4] and data.pair(2).split == "dev"
    assert data.split("dev").tolist() == [2]
    rows = TrainingRows.own(data, most=4)
    assert rows.pair.tolist() == [0, 1] and rows.negatives.tolist() == [[-1], [5]]
    assert PairColumns.of(data).tasks == ["t"]
