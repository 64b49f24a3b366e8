"""One small fixture for each published layout: field names, quirks, and who is right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from unime.core.errors import DataError, RecipeError
from unime.eval.benchmark import (
    BenchmarkChoice,
    choose,
    chosen_tasks,
    known_benchmarks,
    load_benchmark,
    specify,
)
from unime.eval.pool import Pool
from unime.eval.runners import RUNNERS
from unime.eval.similarity import Vectors


def picture(path: Path, colour: str, size: tuple[int, int] = (8, 8)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def read(name: str, root: Path, task: str, **changes: Any) -> tuple[Any, Pool]:
    choice = BenchmarkChoice(name=name, root=str(root), **changes)
    pool = Pool()
    spec = specify(choose(choice), choice, task)
    return RUNNERS[spec.layout].read(spec, pool), pool


def rows_of(pool: Pool) -> dict[str, int]:
    """Rows by text, or by picture and box."""
    found = {}
    for row, entry in enumerate(pool.entries):
        name = entry.text
        if entry.image is not None:
            region = entry.image.region
            name = entry.image.location + (str(region[1:]) if region else "")
        found[name] = row
    return found


def score(task: Any, pool: Pool, groups: dict[str, list[str]]):
    """Score with embeddings where the named rows lie together, all others apart."""
    values, rows = np.eye(len(pool), dtype=np.float32), rows_of(pool)
    for first, others in groups.items():
        for other in others:
            values[rows[other]] = values[rows[first]]
    return task.score(Vectors(values, "m"))


def test_sugarcrepe_plus_plus(tmp_path):
    picture(tmp_path / "val2017/1.jpg", "red")
    # Ids repeat in the published lists.
    record = {
        "id": 7,
        "filename": "1.jpg",
        "caption": "a",
        "caption2": "b",
        "negative_caption": "n",
    }
    write_json(tmp_path / "swap_obj.json", [record, record])
    itt, pool = read("sugarcrepe_pp", tmp_path, "itt_swap_obj")
    assert len(itt.queries) == 2
    assert itt.score(Vectors(np.eye(len(pool)), "apart")).metrics["pairwise"] == 0
    assert score(itt, pool, {"val2017/1.jpg": ["a", "b"]}).metrics["pairwise"] == 1
    assert score(itt, pool, {"val2017/1.jpg": ["a"]}).metrics["pairwise"] == 0
    tot, pool = read("sugarcrepe_pp", tmp_path, "tot_swap_obj")
    assert score(tot, pool, {"a": ["b"]}).metrics["pairwise"] == 1
    assert score(tot, pool, {"a": ["b", "n"]}).metrics["pairwise"] == 0
    assert tot.score(Vectors(np.eye(len(pool)), "apart")).chance["pairwise"] == pytest.approx(1 / 3)


def test_aro_regions_are_cropped_and_grouped(tmp_path):
    picture(tmp_path / "images/1.jpg", "red", (20, 10))
    records = [
        {"image_path": "1.jpg", "bbox_x": 2, "bbox_y": 1, "bbox_w": 30, "bbox_h": 5, "true_caption": f"{n} on",
         "false_caption": f"on {n}", "relation_name": relation}
        for n, relation in enumerate(["on", "on", "on", "under"])
    ]  # fmt: skip
    write_json(tmp_path / "visual_genome_relation.json", records)
    task, pool = read("aro", tmp_path, "relation")
    crop = pool.image(pool.entries[task.queries[0]])
    assert crop is not None and crop.size == (18, 5)
    box = "images/1.jpg(2, 1, 30, 5)"
    scores = score(task, pool, {box: ["3 on"]})
    # One of four right, but it is the whole of its relation.
    assert (scores.metrics["pairwise"], scores.metrics["macro"]) == (0.25, 0.5)
    assert scores.values.mean() == pytest.approx(0.5)
    write_json(tmp_path / "visual_genome_relation.json", [{**records[0], "bbox_w": 0}])
    with pytest.raises(DataError, match="empty box"):
        read("aro", tmp_path, "relation")


def test_aro_order_in_both_forms(tmp_path):
    image = picture(tmp_path / "1.png", "red").read_bytes()
    captions = ["right", "w1", "w2", "w3", "w4"]
    columns = {"images": [{"bytes": image, "path": "1.png"}], "correct_caption": ["right"]}
    columns |= {f"hard_text_{n}": [f"w{n}"] for n in range(1, 5)}
    path = tmp_path / "flickr_order/data/test.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.table(columns), path)
    task, pool = read("aro", tmp_path, "flickr_order")
    location = "flickr_order/data/test.parquet#0/images"
    assert score(task, pool, {location: ["right"]}).metrics["pairwise"] == 1
    assert score(task, pool, {location: ["right", "w4"]}).metrics["pairwise"] == 0
    write_json(tmp_path / "own.json", [{"image_path": "1.png", "caption_options": captions}])
    task, pool = read("aro", tmp_path, "flickr_order", files="own.json", form="aro_order")
    # A task's own files go before the recipe's: the Parquet file is read again.
    assert len(task.queries) == 1


def test_winoground_scores(tmp_path):
    blobs = [picture(tmp_path / f"{n}.png", c).read_bytes() for n, c in enumerate(["red", "blue"])]
    columns = {"id": [0], "caption_0": ["c0"], "caption_1": ["c1"]}
    columns |= {f"image_{n}": [{"bytes": blobs[n], "path": None}] for n in (0, 1)}
    pq.write_table(pa.table(columns), tmp_path / "test-00000-of-00001.parquet")
    where = "test-00000-of-00001.parquet#0/image_{}"
    right = {where.format(0): ["c0"], where.format(1): ["c1"]}
    for name in ("text", "image", "group"):
        task, pool = read("winoground", tmp_path, name)
        assert score(task, pool, right).metrics["pairwise"] == 1
        # Both captions with picture 0: every comparison of texts or pictures fails somewhere.
        assert score(task, pool, {where.format(0): ["c0", "c1"]}).metrics["pairwise"] == 0


def test_valse_keeps_confirmed_items(tmp_path):
    picture(tmp_path / "images/COCO/1.jpg", "red")
    record = {"dataset": "COCO", "image_file": "1.jpg", "caption": "two", "foil": "three",
              "linguistic_phenomena": "plurals", "mturk": {"caption": 3, "foil": 0, "other": 0}}  # fmt: skip
    doubtful = {**record, "caption": "x", "mturk": {"caption": 1, "foil": 2, "other": 0}}
    write_json(tmp_path / "plurals.json", {"a": record, "b": doubtful})
    task, pool = read("valse", tmp_path, "plurals")
    assert task.ids == ["a"]
    scores = score(task, pool, {"images/COCO/1.jpg": ["two"]})
    assert (scores.metrics["pairwise"], scores.metrics["auroc"]) == (1.0, 1.0)


def test_karpathy_takes_the_test_split_and_five_captions(tmp_path):
    for number in range(3):
        picture(tmp_path / f"val2014/{number}.jpg", ["red", "green", "blue"][number])
    images = [
        {"split": ["test", "train", "test"][n], "filepath": "val2014", "filename": f"{n}.jpg",
         "sentences": [{"raw": f" caption {n} {c} "} for c in range(6)]}
        for n in range(3)
    ]  # fmt: skip
    write_json(tmp_path / "dataset_coco.json", {"images": images, "dataset": "coco"})
    to_text, pool = read("coco5k", tmp_path, "image_to_text")
    assert (len(to_text.queries), len(to_text.candidates)) == (2, 10)
    right = {f"val2014/{n}.jpg": [f"caption {n} 4"] for n in (0, 2)}
    assert score(to_text, pool, right).metrics["R@1"] == 1
    to_image, _ = read("coco5k", tmp_path, "text_to_image")
    assert (len(to_image.queries), len(to_image.candidates)) == (10, 2)


def test_long_caption_sets(tmp_path):
    for number in range(2):
        picture(tmp_path / f"sam/{number}.jpg", ["red", "blue"][number])
        picture(tmp_path / f"urban/image/{number}.jpg", ["red", "blue"][number])
        caption = tmp_path / f"urban/caption/{number}.txt"
        caption.parent.mkdir(parents=True, exist_ok=True)
        caption.write_text(f"street {number}\nnot this line")
    records = [
        {"image": f"sam/{n}.jpg", "conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": f"a\nlong {n}"}]}
        for n in range(2)
    ]  # fmt: skip
    write_json(tmp_path / "share-captioner_coco_lcs_sam_1246k_1107.json", records)
    _, pool = read("sharegpt4v_1k", tmp_path, "image_to_text")
    assert "a long 1" in rows_of(pool)
    _, pool = read("urban1k", tmp_path / "urban", "text_to_image")
    assert {"street 0", "street 1", "image/0.jpg"} <= rows_of(pool).keys()
    (tmp_path / "urban/caption/1.txt").unlink()
    with pytest.raises(DataError, match=r"1.jpg has no caption file .*1.txt"):
        read("urban1k", tmp_path / "urban", "text_to_image")


def write_pages(folder: Path) -> None:
    """Write a visual-document set as its Hub repository is laid out."""
    blobs = [picture(folder.parent / f"{c}.png", c).read_bytes() for c in ("red", "green", "blue")]
    tables = {
        "corpus": {"corpus-id": [10, 11, 12], "image": [{"bytes": b, "path": None} for b in blobs]},
        "queries": {"query-id": [1, 2, 3], "query": ["q1", "q2", "q3"], "language": ["english", "french", "english"]},
        "qrels": {"query-id": [1, 1, 2, 3], "corpus-id": [10, 11, 12, 12], "score": [2, 1, 1, 0]},
    }  # fmt: skip
    for name, columns in tables.items():
        path = folder / name / "test-00000-of-00001.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(pa.table(columns), path)


def test_document_pages_with_grades(tmp_path):
    write_pages(tmp_path / "ViDoRe_arxivqa")
    task, pool = read("mmeb_v2", tmp_path, "ViDoRe_arxivqa")
    # Query 3 has no relevant page.
    assert task.query_ids == ["1", "2"]
    page = "ViDoRe_arxivqa/corpus/test-00000-of-00001.parquet#{}/image"
    scores = score(task, pool, {"q1": [page.format(1)], "q2": [page.format(2)]})
    # q1: the page of grade 1 first, then the other two level: against the model, grade 2 is last.
    worst = (1 + 2 / np.log2(4)) / (2 + 1 / np.log2(3))
    assert scores.metrics["ndcg_linear@5"] == pytest.approx((worst + 1) / 2)
    assert scores.expected > scores.metrics["ndcg_linear@5"]
    assert sorted(task.relevance())[0][2] in (1.0, 2.0)
    assert len(read("mmeb_v2", tmp_path, "ViDoRe_arxivqa", language="english")[0].queries) == 1


def test_a_text_corpus_in_beir_files(tmp_path):
    (tmp_path / "qrels").mkdir()
    (tmp_path / "corpus.jsonl").write_text(
        '{"_id": "d1", "title": "T", "text": "one"}\n{"_id": "d2", "title": "", "text": "two"}\n'
    )
    (tmp_path / "queries.jsonl").write_text(
        '{"_id": "q1", "text": "which"}\n{"_id": "q2", "text": "unjudged"}\n'
    )
    (tmp_path / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td2\t1\n")
    (tmp_path / "qrels/train.tsv").write_text("query-id\tcorpus-id\tscore\nq2\td1\t1\n")
    task, pool = read("scifact", tmp_path, "scifact")
    assert task.query_ids == ["q1"] and "T one" in rows_of(pool)
    assert score(task, pool, {"which": ["two"]}).metrics["ndcg_linear@10"] == 1
    (tmp_path / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\tgone\t1\n")
    with pytest.raises(
        DataError, match="1 relevant documents are not in the corpus, such as 'gone'"
    ):
        read("scifact", tmp_path, "scifact")


def test_sentence_pairs(tmp_path):
    lines = [
        {"sentence1": f"s{n}", "sentence2": f"t{n}", "score": n, "split": "test"} for n in range(4)
    ]
    lines.append({**lines[0], "split": "train"})
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, lines)))
    task, pool = read("sts_benchmark", tmp_path, "stsb")
    assert len(task.queries) == 4
    rows, angles = rows_of(pool), np.zeros(len(pool))
    for number in range(4):
        angles[rows[f"t{number}"]] = 1.0 - number / 4
    values = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    scores = task.score(Vectors(values, "m"))
    assert scores.metrics["spearman"] == pytest.approx(1.0)
    assert task.score(Vectors(np.ones((len(pool), 1)), "constant")).metrics["spearman"] == 0.0


def test_published_sizes():
    counts = {
        name: {task: definition.queries for task, definition in load_benchmark(name).tasks.items()}
        for name in known_benchmarks()
    }
    assert set(counts["mmeb_v1"].values()) == {1000} and len(counts["mmeb_v1"]) == 36
    v2 = load_benchmark("mmeb_v2")
    by_modality = {m: [t for t in v2.tasks.values() if (t.modality or v2.modality) == m] for m in ("image", "video", "visdoc")}  # fmt: skip
    assert [len(tasks) for tasks in by_modality.values()] == [36, 18, 24]
    assert {t.metric or v2.metric for t in by_modality["visdoc"]} == {"ndcg_linear@5"}
    assert {t.metric or v2.metric for t in by_modality["video"]} == {"hit@1"}
    fixed = [v2.tasks[name].hub for name in ("ViDoSeek-page", "MMLongBench-page")]
    assert all(hub is not None and hub.endswith("-page-fixed") for hub in fixed)
    assert sum(n or 0 for n in counts["sugarcrepe_pp"].values()) == 2 * 4757
    assert sum(n or 0 for n in counts["valse"].values()) == 7702
    assert counts["aro"] == {
        "attribution": 28748,
        "relation": 23937,
        "coco_order": 25010,
        "flickr_order": 5000,
    }
    assert set(counts["winoground"].values()) == {400}
    assert counts["flickr30k"] == {"image_to_text": 1000, "text_to_image": 5000}
    assert counts["coco5k"] == {"image_to_text": 5000, "text_to_image": 25000}
    assert counts["scifact"] == {"scifact": 300} and counts["sts_benchmark"] == {"stsb": 1379}


def test_tasks_are_chosen_by_name_pattern_meta_task_and_modality():
    benchmark = load_benchmark("mmeb_v2")

    def chosen(*tasks: str) -> list[str]:
        return chosen_tasks(benchmark, BenchmarkChoice(name="mmeb_v2", root=".", tasks=list(tasks)))

    assert len(chosen("image")) == 36 and len(chosen("image", "visdoc")) == 60
    assert len(chosen("ViDoRe_*")) == 14 and len(chosen("video_qa")) == 5
    with pytest.raises(RecipeError, match="unknown task of mmeb_v2 'K701'; did you mean 'K700'"):
        chosen("K701")


def test_a_task_comes_from_its_own_hub_repository(tmp_path, monkeypatch):
    write_pages(tmp_path / "snapshot")
    asked = []

    def download(repo, repo_type, revision):
        asked.append((repo, repo_type, revision))
        return str(tmp_path / "snapshot")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    choice = BenchmarkChoice(name="mmeb_v2", root="hub")
    spec = specify(choose(choice), choice, "ViDoRe_arxivqa")
    assert asked == [("vidore/arxivqa_test_subsampled_beir", "dataset", None)]
    assert len(RUNNERS[spec.layout].read(spec, Pool()).queries) == 2
    with pytest.raises(RecipeError, match="urban1k is on no hub; give a folder as its root"):
        specify(
            load_benchmark("urban1k"), BenchmarkChoice(name="urban1k", root="hub"), "image_to_text"
        )


def test_frames_of_a_folder_at_even_distances(tmp_path):
    from unime.data import video

    for number in range(20):
        picture(tmp_path / f"clip/{number:03}.png", f"rgb({10 * number}, 0, 0)")
    found: Any = video.frames(tmp_path, "clip", 4)
    assert [frame.getpixel((0, 0))[0] // 10 for frame in found] == [2, 7, 12, 17]
    assert video.evenly_spaced(3, 8) == [0, 1, 2]
    assert video.load_frame_grid(tmp_path, "clip", 4).size == (16, 16)
    with pytest.raises(DataError, match="outside the data root"):
        video.frames(tmp_path / "clip", "../elsewhere")
    # A folder of frames stands where a picture's location would.
    columns = {
        "qry_text": ["what"],
        "qry_img_path": ["clip"],
        "tgt_text": [["a", "b"]],
        "tgt_img_path": [[]],
    }
    (tmp_path / "K700").mkdir()
    pq.write_table(pa.table(columns), tmp_path / "K700/test.parquet")
    task, pool = read("mmeb_v2", tmp_path, "K700")
    sheet = pool.image(pool.entries[task.queries[0]])
    assert sheet is not None and sheet.size == (24, 24)
