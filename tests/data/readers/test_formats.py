"""Every format read as its specification says, quirks included."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.readers.sources import json_lines, parquet, picture, rows_of
from unime.core.errors import DataError, RecipeError
from unime.data.images import load_rgb
from unime.data.items import Item, Pair
from unime.data.readers import ReadRow, read_eval


def only(rows: list[ReadRow]) -> Pair:
    (row,) = rows
    assert row.error is None, row.error
    (pair,) = row.pairs
    return pair


MMEB = {
    "qry": "<|image_1|>\nRepresent the given image with the following question: What is it?\n",
    "qry_image_path": "images/A-OKVQA/Train/1.jpg",
    "pos_text": "a dog",
    "pos_image_path": "",
}


def test_mmeb_train_splits_instruction_and_placeholder_off(tmp_path: Path) -> None:
    parquet(tmp_path / "A-OKVQA/original-00000-of-00001.parquet", [MMEB])
    pair = only(rows_of(tmp_path, reader="mmeb_train", path="A-OKVQA"))
    assert pair == Pair(
        Item.of("What is it?", "images/A-OKVQA/Train/1.jpg"),
        (Item.of("a dog"),),
        "A-OKVQA",
        query_instruction="Represent the given image with the following question:",
    )


def test_mmeb_train_with_images_on_the_other_side_and_negatives(tmp_path: Path) -> None:
    row = {
        "qry": "<|image_1|>\nFind a Wikipedia image that answers this question: Which part?\n",
        "qry_image_path": "",  # the published rows carry the placeholder without an image
        "pos_text": "<|image_1|>\nRepresent the given Wikipedia image with related text "
        "information: A face.\n",
        "pos_image_path": "1.jpg",
        "neg_text": ["A foot.", ""],
        "neg_image_path": ["", "2.jpg"],
    }
    json_lines(tmp_path / "WebQA.jsonl", [row])
    pair = only(rows_of(tmp_path, reader="mmeb_train", path="WebQA.jsonl", image_root="images/"))
    assert pair.query == Item.of("Which part?")
    assert pair.positives == (Item.of("A face.", "images/1.jpg"),)
    assert pair.negatives == (Item.of("A foot."), Item.of("", "images/2.jpg"))
    assert pair.target_instruction.startswith("Represent the given Wikipedia image")


@pytest.mark.parametrize("none", ["", [""], None, []])
def test_mmeb_train_knows_many_ways_to_have_no_negative(tmp_path: Path, none: object) -> None:
    row = {**MMEB, "neg_text": none, "neg_image_path": none}
    json_lines(tmp_path / "A-OKVQA.jsonl", [row])
    assert only(rows_of(tmp_path, reader="mmeb_train", path="A-OKVQA.jsonl")).negatives == ()


def test_splits_are_chosen_by_file_name(tmp_path: Path) -> None:
    parquet(tmp_path / "t/original-00000-of-00002.parquet", [{**MMEB, "pos_text": "0"}])
    parquet(tmp_path / "t/original-00001-of-00002.parquet", [{**MMEB, "pos_text": "1"}])
    parquet(tmp_path / "t/diverse_instruction-00000-of-00001.parquet", [MMEB])
    rows = rows_of(tmp_path, reader="mmeb_train", path="t", split="original")
    assert [row.pairs[0].positives[0].text for row in rows] == ["0", "1"]
    with pytest.raises(DataError, match=r"several splits; choose one by split: \['diverse_"):
        rows_of(tmp_path, reader="mmeb_train", path="t")
    with pytest.raises(DataError, match="no split 'orginal'; splits: diverse_instruction, orig"):
        rows_of(tmp_path, reader="mmeb_train", path="t", split="orginal")


V1 = {
    "qry_text": "<|image_1|>\nFind an image caption describing the given everyday image.\n",
    "qry_img_path": "q.jpg",
    "tgt_text": ["right", "wrong", "worse"],
    "tgt_img_path": ["", "", ""],
}


def test_mmeb_eval_v1(tmp_path: Path) -> None:
    parquet(tmp_path / "MSCOCO_i2t/test.parquet", [{**V1, "tgt_kind": ["", "swap", "random"]}])
    (query,) = read_eval(tmp_path / "MSCOCO_i2t", root=tmp_path, image_root="images")
    assert query.query == Item.of("", "images/q.jpg")
    assert query.query_instruction == "Find an image caption describing the given everyday image."
    assert [c.text for c in query.candidates] == ["right", "wrong", "worse"]
    assert query.gold == (0,)
    assert query.kinds == ("", "swap", "random")


def test_mmeb_eval_with_instructions_apart_and_scalars(tmp_path: Path) -> None:
    row = {
        "qry_inst": "<|image_1|>\nFind the  crop:",
        "qry_text": "<|image_1|>\nthe cat\n",
        "qry_img_path": "q.jpg",
        "tgt_inst": "Represent it",
        "tgt_text": "",
        "tgt_img_path": ["a.jpg", "b.jpg"],
    }
    json_lines(tmp_path / "own.jsonl", [row])
    (query,) = read_eval(tmp_path / "own.jsonl")
    assert (query.query_instruction, query.target_instruction) == ("Find the crop:", "Represent it")
    assert query.query == Item.of("the cat", "q.jpg")
    assert query.candidates == (Item.of("", "a.jpg"), Item.of("", "b.jpg"))
    pair = only(rows_of(tmp_path, reader="mmeb_eval", path="own.jsonl"))
    assert pair.positives == (Item.of("", "a.jpg"),)
    assert pair.negatives == ()


def test_mmeb_eval_leaves_no_row_out(tmp_path: Path) -> None:
    json_lines(tmp_path / "own.jsonl", [V1, {**V1, "tgt_img_path": ["", ""]}])
    with pytest.raises(DataError, match=r"row 1: wrong type: candidate: 3 texts but 2 images"):
        list(read_eval(tmp_path / "own.jsonl"))


def unime_row(query: str, image: str) -> dict[str, object]:
    return {
        "query_text": query,
        "query_image": image,
        "pos_text": "<|image_1|>\nRepresent the given image.",
        "pos_image": "images/NIGHTS/Train/p.jpg",
        "query_pos_scores": 0.5,
        "hard_negatives": [["<|image_1|>\nRepresent the given image.", "n.jpg"], ["text", ""]],
        "hard_negatives_scores": [0.25, None],
    }


def test_unime_v2_finds_tasks_by_folder_or_instruction(tmp_path: Path) -> None:
    nights = "<|image_1|>\nFind a day-to-day image that looks similar to the provided image.\n"
    news = "Retrieve an image of this news caption. A goal."
    rows = [unime_row(nights, "images/NIGHTS/Train/q.jpg"), unime_row(news, "")]
    rows[1]["pos_image"] = "p.jpg"
    (tmp_path / "train.json").write_text(json.dumps(rows, indent=2))
    first, second = (
        row.pairs[0] for row in rows_of(tmp_path, reader="unime_v2", path="train.json")
    )
    assert (first.task, second.task) == ("NIGHTS", "VisualNews_t2i")
    assert first.query == Item.of("", "images/NIGHTS/Train/q.jpg")
    assert first.positives == (Item.of("", "images/NIGHTS/Train/p.jpg"),)
    assert first.negatives == (Item.of("", "n.jpg"), Item.of("text"))
    assert first.scores[:2] == (0.5, 0.25)
    assert math.isnan(first.scores[2])
    assert second.query == Item.of("A goal.")
    assert second.query_instruction == "Retrieve an image of this news caption."


def test_unime_v2_scores_must_fit(tmp_path: Path) -> None:
    row = {**unime_row("q", ""), "hard_negatives_scores": [0.25]}
    (tmp_path / "train.json").write_text(json.dumps([row]))
    (read,) = rows_of(tmp_path, reader="unime_v2", path="train.json")
    assert str(read.error) == "wrong type: 2 scores, expected 1 + 2 negatives"


@pytest.mark.parametrize("cut", [0, 1, 50, -1])
def test_a_json_list_cut_off_is_an_error_of_the_file(tmp_path: Path, cut: int) -> None:
    text = json.dumps([unime_row("q", "")] * 3)
    (tmp_path / "train.json").write_text(text[:cut])
    with pytest.raises(DataError, match="train.json is not a JSON list"):
        rows_of(tmp_path, reader="unime_v2", path="train.json")


def test_json_list_elements_across_pieces() -> None:
    from io import StringIO

    from unime.data.readers.json_rows import _elements

    values = [{"n": 12345}, 678.5, "text, with ] and [", [1, [2]], None, 90]
    for size in range(1, 30):
        assert list(_elements(StringIO(json.dumps(values, indent=1)).read, size)) == values


def test_flagembedding(tmp_path: Path) -> None:
    row = {
        "query": "q",
        "pos": ["a", "b"],
        "neg": ["c"],
        "pos_scores": [0.9, 0.8],
        "neg_scores": [0.1],
        "prompt": "Find it",
    }
    json_lines(tmp_path / "fe.jsonl", [row, {"query": "q", "pos": "a"}, {**row, "neg_scores": []}])
    rows = rows_of(tmp_path, reader="flagembedding", path="fe.jsonl")
    first, second = rows[0].pairs[0], rows[1].pairs[0]
    assert (first.query_instruction, first.scores) == ("Find it", (0.9, 0.1))
    assert (first.positives, first.negatives) == ((Item.of("a"), Item.of("b")), (Item.of("c"),))
    assert (second.positives, second.scores) == ((Item.of("a"),), ())
    assert "0 neg_scores for 1 neg" in str(rows[2].error)


def test_sentence_transformers_columns_by_order(tmp_path: Path) -> None:
    rows = [
        {"anchor": "q", "positive": "p", "negative_1": "n", "negative_2": "m",
         "scores": [1, 0.5, 0]},
        {"query": {"text": "q", "image": "q.png"}, "document": "pictures/p.JPG"},
        {"a": [{"role": "user", "content": [{"type": "image", "image": "q.png"},
                                            {"type": "text", "text": "what?"}]}], "b": "see a.png"},
        {"sentence1": "q", "sentence2": "p", "label": 1},
        {"sentence1": "q", "sentence2": "p", "label": 0},
        {"sentence1": "q"},
    ]  # fmt: skip
    json_lines(tmp_path / "st.jsonl", rows)
    read = rows_of(tmp_path, reader="sentence_transformers", path="st.jsonl", image_root="i")
    pairs = [row.pairs[0] for row in read if not row.error]
    assert (pairs[0].negatives, pairs[0].scores) == ((Item.of("n"), Item.of("m")), (1.0, 0.5, 0.0))
    assert pairs[1].query == Item.of("q", "i/q.png")
    assert pairs[1].positives == (Item.of("", "i/pictures/p.JPG"),)
    assert pairs[2].query == Item.of("what?", "i/q.png")
    assert pairs[2].positives == (Item.of("see a.png"),)
    assert pairs[3].scores == (1.0,)
    assert [str(row.error) for row in read if row.error] == [
        "no positive: label is 0: the row says that it is no match",
        "missing column: expected anchor and positive, got sentence1",
    ]


def test_images_inside_parquet_keep_a_location(tmp_path: Path) -> None:
    red = picture(tmp_path / "red.png").read_bytes()
    blue = picture(tmp_path / "blue.png", "blue").read_bytes()
    cells = [{"bytes": red, "path": None}, {"bytes": None, "path": "blue.png"}]
    table = pa.table({"anchor": ["a", "b"], "positive": cells, "negative": [blue, red]})
    (tmp_path / "deep").mkdir()
    pq.write_table(table, tmp_path / "deep/st.parquet", row_group_size=1)
    first, second = rows_of(tmp_path, reader="sentence_transformers", path="deep/st.parquet")
    assert first.pairs[0].positives[0].image == "deep/st.parquet#0/positive"
    assert second.pairs[0].positives[0].image == "blue.png"
    assert second.pairs[0].negatives[0].image == "deep/st.parquet#1/negative"
    colour = load_rgb(tmp_path, "deep/st.parquet#1/negative").getpixel((0, 0))
    assert colour == (255, 0, 0)


def test_folder_with_captions_both_ways(tmp_path: Path) -> None:
    captions = [
        {"image": "a.png", "caption": ["one", "two", "one", ""]},
        {"file_name": "b.png", "text": {"en": "three", "de": "drei"}},
        {"image": "c.png", "caption": {"de": "vier"}},
    ]
    json_lines(tmp_path / "deep/captions.jsonl", captions)
    to_text = rows_of(tmp_path, reader="folder", path="deep", language="en", task="i2t",
                      query_instruction="Caption it")  # fmt: skip
    assert to_text[0].pairs == (
        Pair(
            Item.of("", "deep/a.png"),
            (Item.of("one"), Item.of("two")),
            "i2t",
            query_instruction="Caption it",
        ),
    )
    assert to_text[1].pairs[0].positives == (Item.of("three"),)
    assert str(to_text[2].error) == "empty item: no caption in 'en'"
    to_image = rows_of(tmp_path, reader="folder", path="deep/captions.jsonl", direction="t2i")
    found = [(p.query.text, p.positives[0].image) for row in to_image for p in row.pairs]
    assert found == [
        ("one", "deep/a.png"), ("two", "deep/a.png"),
        ("drei", "deep/b.png"), ("three", "deep/b.png"), ("vier", "deep/c.png"),
    ]  # fmt: skip


def test_folder_with_sidecars(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "sub/b.JPG")
    (tmp_path / "a.txt").write_text("\ufeffa cat\n", encoding="utf-8")
    first, second = rows_of(tmp_path, reader="folder", path=".", task="own")
    assert first.pairs[0].positives == (Item.of("a cat"),)
    assert str(second.error) == "empty item: no caption file b.txt beside it"


def test_csv_and_tsv_cells_with_line_breaks(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(
        b'\xef\xbb\xbfimage,caption\n1.png,"two\nlines, ""quoted"""\nlonely\n2.png,\xff\n'
    )
    (tmp_path / "a.tsv").write_text("image\tcaption\n1.png\tplain, with comma\n")
    rows = rows_of(tmp_path, reader="folder", path="a.csv")
    assert rows[0].pairs[0].positives == (Item.of('two\nlines, "quoted"'),)
    assert [str(row.error) for row in rows[1:]] == [
        "malformed line: 1 cells, expected 2 as in the header",
        "wrong type: caption: not valid Unicode text",
    ]
    rows = rows_of(tmp_path, reader="folder", path="a.tsv")
    assert rows[0].pairs[0].positives == (Item.of("plain, with comma"),)


def test_data_sets_saved_to_disk_by_datasets(tmp_path: Path) -> None:
    import datasets

    picture(tmp_path / "red.png")
    table = datasets.Dataset.from_dict({"anchor": ["a"], "positive": [str(tmp_path / "red.png")]})
    table = table.cast_column("positive", datasets.Image())
    datasets.DatasetDict({"train": table}).save_to_disk(str(tmp_path / "saved"))
    source = {"reader": "sentence_transformers", "path": "saved"}
    with pytest.raises(DataError, match="has the splits train; choose one by split"):
        rows_of(tmp_path, **source)
    location = only(rows_of(tmp_path, **source, split="train")).positives[0].image
    assert location is not None
    assert load_rgb(tmp_path, location).size == (8, 6)


def test_the_hub_out_of_reach_is_one_clear_sentence(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match="hub:no/such at revision main was not fetched before, and HF_"
    ):
        rows_of(tmp_path, reader="mmeb_train", path="hub:no/such", name="a", split="train")


def test_wildcards_make_a_task_of_each_match(tmp_path: Path) -> None:
    for name in ("b", "a"):
        parquet(tmp_path / f"train/{name}/original.parquet", [MMEB])
    (tmp_path / "train/instructions.json").write_text("{}")
    rows = rows_of(tmp_path, reader="mmeb_train", path="train/*", image_root="train/{task}")
    assert [(row.pairs[0].task, row.pairs[0].query.image) for row in rows] == [
        ("a", "train/a/images/A-OKVQA/Train/1.jpg"),
        ("b", "train/b/images/A-OKVQA/Train/1.jpg"),
    ]


def test_wrong_names_are_clear(tmp_path: Path) -> None:
    json_lines(tmp_path / "a.jsonl", [MMEB])
    with pytest.raises(RecipeError, match="unknown reader 'mmeb_trian'; did you mean 'mmeb_train'"):
        rows_of(tmp_path, reader="mmeb_trian", path="a.jsonl")
    with pytest.raises(DataError, match=r"source 'b.jsonl' matches nothing below"):
        rows_of(tmp_path, reader="mmeb_train", path="b.jsonl")
    (tmp_path / "a.xml").write_text("")
    with pytest.raises(DataError, match=r"unknown format; known: .csv, .json, .jsonl, .parquet"):
        rows_of(tmp_path, reader="mmeb_train", path="a.xml")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match=r"a.parquet is not a readable Parquet file"):
        rows_of(tmp_path, reader="mmeb_train", path="a.parquet")


def test_columns_that_a_reader_does_not_know_are_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    row = {"query": "q", "pos": ["p"], "query_image": "a.png"}
    json_lines(tmp_path / "fe.jsonl", [row, row, {**row, "pos_image": "b.png"}])
    with caplog.at_level("INFO", "unime"):
        rows = rows_of(tmp_path, reader="flagembedding", path="fe.jsonl")
    assert all(row.error is None for row in rows)
    assert caplog.messages == [
        "fe.jsonl: flagembedding does not read the columns 'query_image'",
        "fe.jsonl: flagembedding does not read the columns 'pos_image'",
    ]


def test_an_archive_beside_a_table_holds_its_images(tmp_path: Path) -> None:
    import tarfile

    picture(tmp_path / "a.png")
    (tmp_path / "set").mkdir()
    with tarfile.open(tmp_path / "set/images.tar", "w") as archive:
        archive.add(tmp_path / "a.png", "a.png")
    row = {"anchor": "a", "positive": {"image": "set/images.tar#a.png"}}
    json_lines(tmp_path / "set/pairs.jsonl", [row])
    pair = only(rows_of(tmp_path, reader="sentence_transformers", path="set"))
    assert pair.positives == (Item.of("", "set/images.tar#a.png"),)
