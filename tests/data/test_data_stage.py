"""`unime data`: what is read, what is rejected, and what a killed run leaves behind."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml

from tests.data.readers.sources import json_lines, parquet, picture
from unime.core import files
from unime.core.errors import DataError, RecipeError
from unime.core.stage import execute
from unime.data import stage as data
from unime.data.data_folder import DataFolder
from unime.data.images import load_rgb
from unime.data.tables import read_table

TABLES = ("items.parquet", "pairs.parquet", "tasks.json", "rejected.jsonl")


def write_recipe(folder: Path, **values: Any) -> Path:
    path = folder / "0_data.yaml"
    path.write_text(yaml.safe_dump({"stage": "data", **values}))
    return path


def run(folder: Path, **values: Any) -> DataFolder:
    values.setdefault("output", str(folder / "out"))
    values.setdefault("root", str(folder / "root"))
    execute("unime.data.stage", write_recipe(folder, **values))
    return DataFolder.open(values["output"])


def rejected(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in files.read_lines(folder / "out/rejected.jsonl")]


def mmeb(query: Any = "q", image: Any = "", positive: Any = "p", **more: Any) -> dict[str, Any]:
    return {
        "qry": query,
        "qry_image_path": image,
        "pos_text": positive,
        "pos_image_path": "",
        **more,
    }


SOURCE = {"reader": "mmeb_train", "path": "rows.jsonl", "task": "t"}

BAD_ROWS: list[tuple[Any, str]] = [
    ('{"qry": ', "malformed line: not JSON"),
    ("", "malformed line: not JSON"),
    ("[" * 100_000, "malformed line: not JSON"),
    ("[1]", "wrong type: row: expected an object, got list"),
    ({"qry": "q"}, "missing column: 'qry_image_path'; columns: qry"),
    (mmeb(query=5), "wrong type: query text: expected text, got int 5"),
    (mmeb(image={"a": 1}), "wrong type: query image: expected text, got dict {'a': 1}"),
    (mmeb(positive=["p", 1]), "wrong type: positive 1 text: expected text, got int 1"),
    (mmeb(query="\ud800"), "wrong type: query text: not valid Unicode text"),
    (mmeb(query=" \n"), "empty item: query has neither text nor image"),
    (mmeb(positive=""), "no positive: a pair needs at least one"),
    (mmeb(positive=["p", ""]), "empty item: positive 1 has neither text nor image"),
    (mmeb(image="none.png"), "missing image: query: 'none.png' is not in "),
    (mmeb(image="cut.png"), "truncated image: query: 'cut.png': "),
    (mmeb(image="text.png"), "not an image: query: 'text.png': cannot identify image file"),
    (mmeb(image="empty.png"), "not an image: query: 'empty.png' is empty"),
    (mmeb(image="bomb.png"), "image too large: query: 'bomb.png' has 101 x 100 pixels, cap 10000"),
    (mmeb(image="../out.png"), "outside the data root: query: '../out.png' is no path below it"),
    (mmeb(image="/etc/passwd"), "outside the data root: query: '/etc/passwd' is no path below it"),
    (mmeb(image="link.png"), "outside the data root: query: 'link.png' leads to "),
    (mmeb(image="http://a/b.png"), "missing image: query image: 'http://a/b.png' is a URL"),
    (mmeb(neg_text="n", neg_image_path="none.png"), "missing image: negative 0: 'none.png' is not"),
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    for name, colour in (("a", "red"), ("b", "blue"), ("c", "green")):
        picture(root / f"{name}.png", colour)
    picture(root / "bomb.png", size=(101, 100))
    shutil.copy(root / "a.png", root / "copy.png")
    whole = picture(root / "cut.png", size=(60, 60)).read_bytes()
    (root / "cut.png").write_bytes(whole[:-40])
    (root / "text.png").write_text("no image")
    (root / "empty.png").write_bytes(b"")
    picture(tmp_path / "out.png")
    (root / "link.png").symlink_to(tmp_path / "out.png")
    return root


def test_every_class_of_bad_row_is_listed_and_nowhere_else(tmp_path: Path, root: Path) -> None:
    rows = [mmeb("good", "a.png")]
    for bad, _ in BAD_ROWS:
        rows += [bad, mmeb(f"good {len(rows)}", "b.png")]
    json_lines(root / "rows.jsonl", rows)
    (root / "rows.jsonl").open("ab").write(b'{"qry": "\xff"}\n')
    folder = run(tmp_path, sources=[SOURCE], max_reject_share=0.6, max_pixels=10_000)
    listed = rejected(tmp_path)
    assert [(row["file"], row["row"]) for row in listed] == [
        ("rows.jsonl", 2 * i + 1) for i in range(len(BAD_ROWS) + 1)
    ]
    for row, (_, reason) in zip(
        listed, [*BAD_ROWS, ("", "malformed line: not UTF-8")], strict=True
    ):
        assert row["reason"].startswith(reason)
    texts = {folder.items.item(i).text for i in range(len(folder.items))}
    assert texts == {"p", "good", *(f"good {2 * i + 1}" for i in range(len(BAD_ROWS)))}
    assert folder.pairs.num_rows == len(BAD_ROWS) + 1
    facts = files.read_json(folder.path / "manifest.json")["facts"]
    assert facts["rows"] == 2 * len(BAD_ROWS) + 2
    assert sum(facts["rejected"].values()) == len(BAD_ROWS) + 1


def test_too_many_bad_rows_fail_after_all_are_listed(tmp_path: Path, root: Path) -> None:
    bad = [mmeb(image="none.png")] * 3 + [mmeb(positive="")]
    json_lines(root / "rows.jsonl", [*bad, *(mmeb(f"q{i}", "a.png") for i in range(96))])
    with pytest.raises(DataError) as caught:
        run(tmp_path, sources=[SOURCE])
    assert str(caught.value) == (
        "4 of 100 rows were rejected, more than max_reject_share 0.01 allows; most frequent: "
        f"missing image (3), no positive (1); all are listed in {tmp_path / 'out/rejected.jsonl'}. "
        "Fix the data or raise max_reject_share, then run this again with --restart"
    )
    assert [row["row"] for row in rejected(tmp_path)] == [0, 1, 2, 3]
    assert not (tmp_path / "out/manifest.json").exists()
    # With the picture found the same command goes through: what was bad is looked at again.
    picture(root / "none.png")
    assert run(tmp_path, sources=[SOURCE]).pairs.num_rows == 99
    assert [row["row"] for row in rejected(tmp_path)] == [3]


def test_one_bad_row_in_a_hundred_is_allowed_and_said(
    tmp_path: Path, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    json_lines(root / "rows.jsonl", [mmeb(positive=""), *(mmeb(f"q{i}") for i in range(99))])
    with caplog.at_level(logging.INFO, logger="unime"):
        run(tmp_path, sources=[SOURCE])
    assert (
        "data: 100 rows read, 1 rejected (most frequent: no positive (1)), "
        f"listed in {tmp_path / 'out/rejected.jsonl'}" in caplog.messages
    )


def test_contents_are_stored_once_and_named_by_their_bytes(tmp_path: Path, root: Path) -> None:
    rows = [
        mmeb("caf\u00e9", "a.png", "p"),
        mmeb("cafe\u0301", "copy.png", ["p", "p", "caf\u00e9"]),  # NFC-equal, same bytes
        mmeb("", "copy.png", "p"),
    ]
    json_lines(root / "rows.jsonl", rows)
    folder = run(tmp_path, sources=[SOURCE])
    assert [folder.items.item(i).text for i in range(len(folder.items))] == [
        "caf\u00e9", "p", "caf\u00e9", "",
    ]  # fmt: skip
    first, second, third = (folder.pair(i) for i in range(3))
    assert (first.query, second.query) == (0, 0)
    assert (first.positives, second.positives) == ([1], [1, 2])
    assert third.query == 3
    assert folder.items.item(0).image == "a.png"
    image = folder.load_image(3)
    assert image is not None
    assert image.getpixel((0, 0)) == (255, 0, 0)
    assert folder.load_image(1) is None
    assert folder.items.sizes([0, 1, 3]).tolist() == [48, 0, 48]


def test_tasks_carry_what_is_known_of_them(tmp_path: Path, root: Path) -> None:
    json_lines(root / "HatefulMemes.jsonl", [mmeb("a"), mmeb("b")])
    json_lines(root / "own.jsonl", [mmeb("c")])
    sources = [
        {"reader": "mmeb_train", "path": "own.jsonl", "meta_task": "mine"},
        {"reader": "mmeb_train", "path": "HatefulMemes.jsonl"},
        {"reader": "mmeb_train", "path": "HatefulMemes.jsonl", "task": "again", "in_batch": False,
         "limit": 1},
    ]  # fmt: skip
    found = [tuple(task) for task in run(tmp_path, sources=sources).tasks.values()]
    assert found == [
        ("own", True, "mine", 1),
        ("HatefulMemes", False, "classification", 2),
        ("again", False, "", 1),
    ]


def test_sources_of_one_task_must_agree(tmp_path: Path, root: Path) -> None:
    json_lines(root / "rows.jsonl", [mmeb()])
    with pytest.raises(RecipeError, match=r"task t: in_batch is None for .*, False for .*; make"):
        run(tmp_path, sources=[SOURCE, {**SOURCE, "in_batch": False}])


def many(root: Path, pairs: int = 200) -> list[dict[str, Any]]:
    """Pairs of which about half are connected by image or text; some with scored negatives."""
    rng = np.random.default_rng(0)
    for i in range(pairs):
        colour = f"#{i:06x}"
        picture(root / f"m/{i}.png", colour)
    rows: list[dict[str, Any]] = []
    for i in range(pairs):
        other = int(rng.integers(pairs)) if i % 4 == 0 else i
        rows.append(
            {
                "query_text": f"q{i % (pairs - 20)}",
                "query_image": f"m/{i}.png" if i % 2 else "",
                "pos_text": "",
                "pos_image": f"m/{other}.png",
                "query_pos_scores": 0.9,
                "hard_negatives": [["", f"m/{int(j)}.png"] for j in rng.integers(pairs, size=4)],
                "hard_negatives_scores": [0.1, 0.2, 0.3, 0.4],
            }
        )
    return rows


def test_no_query_and_no_picture_is_in_train_and_dev(tmp_path: Path, root: Path) -> None:
    (root / "u.json").write_text(json.dumps(many(root)))
    source = {"reader": "unime_v2", "path": "u.json", "task": "u"}
    folder = run(tmp_path, sources=[source], dev_share=0.1)
    assert len(folder.split("dev")) == 20
    sides: dict[str, tuple[set[int], set[bytes]]] = {}
    for split in ("train", "dev"):
        pairs = [folder.pair(int(row)) for row in folder.split(split)]
        used = {i for pair in pairs for i in (pair.query, *pair.positives, *pair.negatives)}
        images = {folder.items.item(i).image for i in used} - {None}
        bytes_ = {load_rgb(folder.root, str(image)).tobytes() for image in images}
        sides[split] = ({pair.query for pair in pairs}, bytes_)
    assert not sides["train"][0] & sides["dev"][0]
    assert not sides["train"][1] & sides["dev"][1]
    removed = files.read_json(folder.path / "manifest.json")["facts"]["negatives_removed"]
    kept = [folder.pair(i) for i in range(folder.pairs.num_rows)]
    assert removed == 4 * len(kept) - sum(len(pair.negatives) for pair in kept) > 0
    # A negative that is taken out takes its score along.
    given = dict(enumerate(many(root)))
    for i, pair in enumerate(kept):
        scores = dict(zip([n[1] for n in given[i]["hard_negatives"]],
                          given[i]["hard_negatives_scores"], strict=True))  # fmt: skip
        if len(scores) < 4:
            continue  # a negative drawn twice
        expected = [scores[str(folder.items.item(n).image)] for n in pair.negatives]
        assert pair.scores == pytest.approx([0.9, *expected])


def test_splits_that_cannot_be_made_are_errors(tmp_path: Path, root: Path) -> None:
    json_lines(root / "rows.jsonl", [mmeb(f"q{i}", "a.png") for i in range(50)])
    with pytest.raises(DataError, match="no dev pairs can be held out of 50 pairs: all are conn"):
        run(tmp_path, sources=[SOURCE], dev_share=0.1)
    with pytest.raises(RecipeError, match="task t has 50 pairs, dev would take 50 of them"):
        run(tmp_path, sources=[SOURCE], dev_count=50, output=str(tmp_path / "out2"))
    with pytest.raises(RecipeError, match="dev_share and dev_count exclude each other"):
        run(tmp_path, sources=[SOURCE], dev_count=5, dev_share=0.1)


def test_pieces_leave_no_trace(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "u.json").write_text(json.dumps(many(root)))
    json_lines(root / "rows.jsonl", [mmeb(f"q{i}") if i % 9 else mmeb("") for i in range(100)])
    sources = [{"reader": "unime_v2", "path": "u.json", "task": "u"}, SOURCE]
    options: dict[str, Any] = {"sources": sources, "dev_share": 0.1, "max_reject_share": 0.5}
    run(tmp_path, **options, output=str(tmp_path / "whole"))
    monkeypatch.setattr("unime.data.parts.ROWS_PER_PART", 7)
    run(tmp_path, **options, output=str(tmp_path / "pieces"))
    for name in TABLES:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "pieces" / name).read_bytes()


def test_killed_anywhere_it_ends_with_the_same_bytes(tmp_path: Path, root: Path) -> None:
    (root / "u.json").write_text(json.dumps(many(root, 60)))
    json_lines(root / "rows.jsonl", [mmeb(f"q{i}") if i % 9 else mmeb("") for i in range(40)])
    out = tmp_path / "out"
    recipe = write_recipe(
        tmp_path,
        root=str(root),
        sources=[{"reader": "unime_v2", "path": "u.json", "task": "u"}, SOURCE],
        dev_share=0.1,
        max_reject_share=0.5,
        output=str(out),
    )
    done = subprocess.run(
        [sys.executable, "-m", "tests.kill_everywhere", "unime.data.stage", str(recipe), str(out)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # plan, two parts, rejected, items, pairs, tasks, run, manifest: before and after each.
    assert int(done.stdout) == 18


def test_inputs_name_what_is_read(tmp_path: Path, root: Path) -> None:
    parquet(root / "train/a/original.parquet", [mmeb()])
    (root / "train/instructions.json").write_text("{}")
    hub, commit = "hub:TIGER-Lab/MMEB-train", "0123456789" * 4
    on_main = {"reader": "mmeb_train", "path": hub, "name": "CIRR"}
    recipe = data.DataRecipe.model_validate(
        {
            "output": "out",
            "root": str(root),
            "sources": [
                {"reader": "mmeb_train", "path": "train/a"},
                on_main,
                on_main | {"revision": commit},
                {"reader": "folder", "path": "not/there"},
            ],
        }
    )
    assert data.inputs(recipe) == {
        "train/a/original.parquet": root / "train/a/original.parquet",
        "train/instructions.json": root / "train/instructions.json",
        hub: Path(hub),
        f"{hub}@{commit}": Path(f"{hub}@{commit}"),
        "not/there": root / "not/there",
    }


def test_an_empty_source_and_a_missing_root_are_errors(tmp_path: Path, root: Path) -> None:
    json_lines(root / "rows.jsonl", [])
    with pytest.raises(DataError, match="the sources hold no rows"):
        run(tmp_path, sources=[SOURCE])
    with pytest.raises(DataError, match=r"the data root .*nowhere is no folder"):
        data.open_sources(
            data.DataRecipe.model_validate(
                {"output": "o", "root": str(tmp_path / "nowhere"), "sources": [SOURCE]}
            )
        )


def test_tables_have_the_agreed_columns(tmp_path: Path, root: Path) -> None:
    from unime.data.tables import ITEMS, PAIRS

    json_lines(root / "rows.jsonl", [mmeb("q", "a.png")])
    folder = run(tmp_path, sources=[SOURCE])
    assert read_table(folder.path / "items.parquet").schema.equals(ITEMS)
    assert read_table(folder.path / "pairs.parquet").schema.equals(PAIRS)


def test_parts_that_an_older_version_left_give_the_same_tables(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Texts with 32-bit offsets: a killed run is taken up by a newer version."""
    from unime.data import parts, tables

    json_lines(root / "rows.jsonl", [mmeb("q", "a.png"), mmeb("grün"), mmeb("")])
    expected = run(tmp_path, sources=[SOURCE], max_reject_share=0.5)
    kinds = {
        field.name: pa.string() for field in parts.PART_ITEM if pa.types.is_large_string(field.type)
    }
    item = pa.struct(
        [field.with_type(kinds.get(field.name, field.type)) for field in parts.PART_ITEM]
    )
    narrow = pa.schema(
        field.with_type(
            pa.list_(item)
            if field.name == "items"
            else pa.string()
            if pa.types.is_large_string(field.type)
            else field.type
        )
        for field in parts.PART
    )
    write, written = tables.write_table, []

    def older(path: Path, table: pa.Table) -> None:
        written.append(table.cast(narrow))
        write(path, written[-1])

    monkeypatch.setattr(tables, "write_table", older)
    output = str(tmp_path / "again")
    found = run(tmp_path, sources=[SOURCE], max_reject_share=0.5, output=output)
    assert written and written[0].schema.field("task").type == pa.string()
    for name in TABLES:
        assert (found.path / name).read_bytes() == (expected.path / name).read_bytes()
