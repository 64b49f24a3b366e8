"""The column-wise reader against the row-wise one of the library, and the retrieval layout."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.eval.small import COLOURS, embed, write_world
from unime.core.errors import DataError
from unime.data.readers.mmeb import read_eval
from unime.eval.benchmark import Benchmark, BenchmarkChoice, TaskDefinition, specify
from unime.eval.pool import Pool
from unime.eval.runners import candidates, comparisons, retrieval
from unime.eval.similarity import Vectors

QUIRKS = {
    "v1, texts and pictures": {
        "qry_text": ["<|image_1|>\nIdentify the scene shown in the image\n", "no instruction"],
        "qry_img_path": ["red.png", None],
        "tgt_text": [["beach", "bar", "beach"], ["bar", "attic"]],
        "tgt_img_path": [["", "", ""], ["", ""]],
    },
    "empty lists for no pictures": {
        "qry_text": ["Identify the scene shown in the image: x", "y"],
        "qry_img_path": ["", ""],
        "tgt_text": [["beach", "bar"], ["bar"]],
        "tgt_img_path": [[], []],
    },
    "pictures alone": {
        "qry_text": ["a", "b"],
        "qry_img_path": ["", ""],
        "tgt_text": [["", ""], [""]],
        "tgt_img_path": [["red.png", "blue.png"], ["green.png"]],
    },
    "a bare text for no pictures, lists of one for the query": {
        "qry_text": [["a"], ["b"]],
        "qry_img_path": [["red.png"], ["blue.png"]],
        "tgt_text": [["one", "two"], ["three"]],
        "tgt_img_path": ["", ""],
    },
    "instructions apart": {
        "qry_inst": ["<|image_1|> Do this:", "Do   that:"],
        "qry_text": ["a\n", "b"],
        "qry_img_path": ["red.png", ""],
        "tgt_inst": ["Represent: ", ""],
        "tgt_text": [["one", "two"], ["three", "one"]],
        "tgt_img_path": [["red.png", "red.png"], ["", ""]],
    },
}


def spec(benchmark: Benchmark, root: Path, task: str):
    return specify(benchmark, BenchmarkChoice(name="mmeb_v1", root=str(root)), task)


def read_one(root: Path, task: str = "SUN397", pool: Pool | None = None):
    benchmark = Benchmark(
        name="b", version="1", layout="candidates", role="overall", metric="hit@1",
        files="{task}/test.parquet", images=task, licence="", citation="",
        tasks={task: TaskDefinition(meta_task="classification")},
    )  # fmt: skip
    pool = pool or Pool()
    return candidates.read(spec(benchmark, root, task), pool), pool


def write_task(root: Path, columns: dict, task: str = "SUN397") -> Path:
    folder = root / task
    folder.mkdir(parents=True, exist_ok=True)
    for colour in ("red", "green", "blue"):
        Image.new("RGB", (8, 8), colour).save(folder / f"{colour}.png")
    pq.write_table(pa.table(columns), folder / "test.parquet")
    return root


@pytest.mark.parametrize("columns", QUIRKS.values(), ids=QUIRKS)
def test_reads_what_the_row_reader_reads(tmp_path, columns):
    write_task(tmp_path, columns)
    parsed, pool = read_one(tmp_path)

    def shown(row):
        entry = pool.entries[row]
        return (
            entry.text,
            entry.image.location.removeprefix("SUN397/") if entry.image else None,
            entry.instruction,
        )

    expected = list(read_eval(tmp_path / "SUN397", task="SUN397"))
    for number, query in enumerate(expected):
        span = slice(parsed.offsets[number], parsed.offsets[number + 1])
        wanted = (query.query.text, query.query.image, query.query_instruction)
        assert shown(parsed.queries[number]) == wanted
        assert [shown(parsed.candidates[p]) for p in parsed.position[span]] == [
            (item.text, item.image, query.target_instruction) for item in query.candidates
        ]
        gold = query.candidates[0]
        assert list(parsed.gold[span]) == [item == gold for item in query.candidates]
    assert len(parsed.queries) == len(expected)


def test_pictures_equal_in_content_are_gold_and_encoded_once(tmp_path):
    columns = {
        "qry_text": ["find it"],
        "qry_img_path": [""],
        "tgt_text": [["", "", ""]],
        "tgt_img_path": [["red.png", "blue.png", "copy.png"]],
    }
    write_task(tmp_path, columns)
    (tmp_path / "SUN397/copy.png").write_bytes((tmp_path / "SUN397/red.png").read_bytes())
    parsed, pool = read_one(tmp_path)
    assert list(parsed.gold) == [True, False, True]
    assert len(pool) == 3


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"tgt_text": [["a", "b"], []]}, "row 1 has no candidates"),
        ({"tgt_text": [["a", "b"], ["c", "d"]], "tgt_img_path": [["red.png"], []]}, "row 0: 1 ent"),
        ({"tgt_img_path": [["", ""], ["missing.png"]]}, "1 pictures under .*missing.png"),
        ({"qry_text": ["", "q"]}, "a query has neither text nor image"),
        ({"tgt_text": [[1, 2], [3]]}, "column tgt_text holds int64, expected text"),
    ],
)
def test_a_bad_row_is_one_clear_sentence(tmp_path, change, sentence):
    columns = {
        "qry_text": ["p", "q"],
        "qry_img_path": ["", ""],
        "tgt_text": [["a", "b"], ["c"]],
        "tgt_img_path": [[], []],
    }
    write_task(tmp_path, {**columns, **change})
    with pytest.raises(DataError, match=f"(?s)b, task SUN397: {sentence}"):
        read_one(tmp_path)


def test_a_missing_column_is_named(tmp_path):
    write_task(tmp_path, {"qry_text": ["q"], "qry_img_path": [""], "tgt_text": [["a"]]})
    with pytest.raises(DataError, match="no column tgt_img_path; expected MMEB-eval's columns"):
        read_one(tmp_path)


def test_scores_of_kinds_and_the_winning_kind(tmp_path):
    columns = {
        "qry_text": ["p", "q"],
        "qry_img_path": ["", ""],
        "tgt_text": [["right", "near", "far"], ["fine", "close", "other"]],
        "tgt_img_path": [[], []],
        "tgt_kind": [["", "near", "far"], ["", "near", "far"]],
    }
    parsed, pool = read_one(write_task(tmp_path, columns))
    row = {entry.text: place for place, entry in enumerate(pool.entries)}
    # p is answered by "near", level with nothing else; q is answered rightly.
    scores = parsed.score(
        Vectors(embed(pool, [[row["p"], row["near"]], [row["q"], row["fine"]]]), "m")
    )
    assert scores.metrics["hit@1"] == 0.5
    assert scores.by_kind["near"].won == 1
    assert (scores.by_kind["near"].hit, scores.by_kind["far"].hit) == (0.5, 0.5)
    assert scores.per_query["winner_kind"].to_pylist() == ["near", ""]
    assert scores.per_query["winner"].to_pylist() == [1, -1]


def test_retrieval_counts_any_caption_and_shares_equal_contents(tmp_path):
    for colour in COLOURS[:3]:
        Image.new("RGB", (8, 8), colour).save(tmp_path / f"{colour}.png")
    lines = [
        {"image": "red.png", "captions": ["crimson", "a colour"]},
        {"image": "green.png", "captions": ["grass", "a colour"]},
        {"image": "blue.png", "captions": ["sky"]},
    ]
    (tmp_path / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    benchmark = Benchmark(
        name="c", version="1", layout="retrieval", role="overall", metric="R@1",
        files="captions.jsonl", licence="", citation="",
        tasks={name: TaskDefinition(meta_task="retrieval") for name in retrieval.DIRECTIONS},
    )  # fmt: skip
    pool = Pool()
    to_text, to_image = (
        retrieval.read(spec(benchmark, tmp_path, name), pool) for name in retrieval.DIRECTIONS
    )
    values = np.eye(len(pool), dtype=np.float32)
    row = {(e.text, e.image and e.image.location, e.side): i for i, e in enumerate(pool.entries)}
    # Red finds the shared caption, green too; blue finds red's. "a colour" finds green.
    values[row["", "red.png", "query"]] = values[row["a colour", None, "target"]]
    values[row["", "green.png", "query"]] = values[row["a colour", None, "target"]]
    values[row["", "blue.png", "query"]] = values[row["crimson", None, "target"]]
    values[row["a colour", None, "query"]] = values[row["", "green.png", "target"]]
    vectors = Vectors(values, "m")
    scores = to_text.score(vectors)
    assert scores.per_query["hit"].to_pylist() == [True, True, False]
    # The two entries "a colour" are right for red and green each: 3, 3 and 1 of 5.
    assert scores.chance["R@1"] == pytest.approx((3 / 5 + 3 / 5 + 1 / 5) / 3)
    hits = to_image.score(vectors).per_query["hit"].to_pylist()
    assert [hits[1], hits[3]] == [True, True]
    assert [hits[0], hits[2], hits[4]] == [False, False, False]


def test_a_negative_equal_to_the_caption_is_an_error(tmp_path):
    write_world(tmp_path)
    path = tmp_path / "compositional/swap_att.json"
    record = {"filename": "red.png", "caption": "same", "negative_caption": "same"}
    path.write_text(json.dumps({"7": record}))
    benchmark = Benchmark(
        name="s", version="1", layout="comparisons", form="sugarcrepe", role="compositional", metric="pairwise",
        files="compositional/{task}.json", images="images", licence="", citation="",
        tasks={"swap_att": TaskDefinition(meta_task="swap")},
    )  # fmt: skip
    with pytest.raises(DataError, match="record '7' has its caption as its negative"):
        comparisons.read(spec(benchmark, tmp_path, "swap_att"), Pool())
