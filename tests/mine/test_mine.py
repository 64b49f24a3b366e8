"""What may be a candidate, and that an interrupted run ends as an uninterrupted one."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import unime.models.embedder
from tests.mine.folders import write_data
from unime.core import files
from unime.core.files import read_json
from unime.core.provenance import open_output
from unime.core.stage import execute
from unime.data.tables import read_table
from unime.mine import stage as mine
from unime.mine import task_plan
from unime.models.model_config import ModelConfig


class TextHashEmbedder:
    """Embeds a text by its hash; counts what it was asked to encode."""

    fingerprint = "text hash"
    preprocessing = {"pooling": "none"}  # noqa: RUF012
    instance: TextHashEmbedder

    def __init__(self):
        self.encoded = []

    @classmethod
    def load(cls, config):
        del config
        return cls.instance

    def encode(self, encodes, batch_size, label):
        del batch_size, label
        self.encoded += [(encode.text, encode.side, encode.instruction) for encode in encodes]
        values = [_vector(encode.text, encode.instruction) for encode in encodes]
        return np.array(values, dtype=np.float32)


def _vector(text, instruction):
    seed = int.from_bytes(hashlib.sha256(f"{text}|{instruction}".encode()).digest()[:4], "little")
    vector = np.random.default_rng(seed).normal(size=8)
    return vector / np.linalg.norm(vector)


@pytest.fixture
def embedder(monkeypatch):
    TextHashEmbedder.instance = TextHashEmbedder()
    monkeypatch.setattr(unime.models.embedder, "Embedder", TextHashEmbedder)
    return TextHashEmbedder.instance


def recipe_for(tmp_path: Path, **values) -> Path:
    lines = {
        "stage": "mine",
        "output": str(tmp_path / "out"),
        "data": str(tmp_path / "data"),
        "model": "{id: some/model}",
        **values,
    }
    path = tmp_path / "3_mine.yaml"
    path.write_text("".join(f"{key}: {value}\n" for key, value in lines.items()))
    return path


@st.composite
def pair_lists(draw):
    """Pairs over few items: shared queries, several positives, own content among the targets."""
    item = st.integers(0, 7)
    return draw(
        st.lists(
            st.fixed_dictionaries(
                {
                    "query": item,
                    "positives": st.lists(item, min_size=1, max_size=3, unique=True),
                    "negatives": st.lists(item, max_size=2, unique=True),
                    "task": st.sampled_from(["a", "b/c"]),
                    "split": st.sampled_from(["train", "train", "dev"]),
                    "query_instruction": st.sampled_from(["", "find"]),
                }
            ),
            min_size=1,
            max_size=12,
        )
    )


@settings(max_examples=30, deadline=None)
@given(pair_lists(), st.integers(1, 9))
def test_candidates_are_the_nearest_admissible_targets_of_the_task(pairs, k):
    with pytest.MonkeyPatch.context() as patch, _folder() as tmp_path:
        TextHashEmbedder.instance = TextHashEmbedder()
        patch.setattr(unime.models.embedder, "Embedder", TextHashEmbedder)
        data = write_data(tmp_path / "data", [f"text {i}" for i in range(8)], pairs)
        if not len(data.split("train")):
            return
        execute("unime.mine.stage", recipe_for(tmp_path, candidates=k))
        table = read_table(tmp_path / "out" / "mined.parquet").to_pylist()

    assert sorted(row["pair"] for row in table) == data.split("train").tolist()
    for row in table:
        pair = data.pair(row["pair"])
        of_task = [other for other in pairs if other["task"] == pair.task]
        corpus = list(
            dict.fromkeys(
                item
                for o in of_task
                if o["split"] == "train"
                for item in (*o["positives"], *o["negatives"])
            )
        )
        known = {p for o in of_task if o["query"] == pair.query for p in o["positives"]}
        admissible = [item for item in corpus if item not in known | {pair.query}]

        query = _half(pair.query, pair.query_instruction)
        similarity = {item: float(_half(item, "") @ query) for item in corpus}
        # Stable: equally similar targets stand in the order of the corpus.
        expected = sorted(admissible, key=lambda item: -similarity[item])[:k]
        assert row["candidates"] == expected
        ahead = sum(similarity[i] >= similarity[pair.positives[0]] - 1e-6 for i in admissible)
        assert row["positive_rank"] == 1 + ahead


def _half(item, instruction):
    return _vector(f"text {item}", instruction).astype(np.float16).astype(np.float32)


def _folder():
    import contextlib
    import tempfile

    @contextlib.contextmanager
    def folder():
        with tempfile.TemporaryDirectory() as name:
            yield Path(name)

    return folder()


PAIRS = [
    {"query": i, "positives": [10 + (i + j) % 20 for j in range(1 + i % 2)], "task": f"t{i % 2}"}
    for i in range(10)
]


def test_each_distinct_encode_is_computed_once(tmp_path, embedder):
    write_data(tmp_path / "data", [f"text {i}" for i in range(30)], PAIRS * 2)
    execute("unime.mine.stage", recipe_for(tmp_path))
    # The two tasks share targets.
    assert len(embedder.encoded) == len(set(embedder.encoded)) > 0


def test_the_similarity_cut_drops_what_is_nearer_than_the_positive(tmp_path, embedder):
    write_data(tmp_path / "data", [f"text {i}" for i in range(30)], PAIRS)
    execute("unime.mine.stage", recipe_for(tmp_path, max_similarity_to_positive_margin=0.0))
    table = read_table(tmp_path / "out" / "mined.parquet").to_pylist()
    assert any(row["positive_rank"] > 1 for row in table)
    for row in table:
        assert all(value <= row["positive_similarity"] for value in row["similarities"])


def test_a_sample_of_the_queries_has_the_candidates_it_has_among_all(tmp_path, embedder):
    write_data(tmp_path / "data", [f"text {i}" for i in range(30)], PAIRS * 2)
    execute("unime.mine.stage", recipe_for(tmp_path))
    execute("unime.mine.stage", recipe_for(tmp_path, queries=2, output=tmp_path / "sample"))
    whole, sample = (
        read_table(tmp_path / name / "mined.parquet").to_pylist() for name in ("out", "sample")
    )
    # Two queries of each of two tasks, and every pair there is twice.
    assert len(sample) == 8 and all(row in whole for row in sample)


def test_recall_is_reported_overall_and_by_task(tmp_path, embedder):
    write_data(tmp_path / "data", [f"text {i}" for i in range(30)], PAIRS)
    execute("unime.mine.stage", recipe_for(tmp_path))
    ranks = np.array(
        [row["positive_rank"] for row in read_table(tmp_path / "out/mined.parquet").to_pylist()]
    )
    facts = read_json(tmp_path / "out" / "manifest.json")["facts"]
    assert facts["recall"]["recall@5"] == round(100 * float((ranks <= 5).mean()), 2)
    assert set(facts["recall_by_task"]) == {"t0", "t1"}
    assert facts["fingerprint"] == "text hash"


class Killed(BaseException):
    """Stands for the end of the process."""


def test_stopped_at_any_durable_change_it_ends_the_same(tmp_path, embedder, monkeypatch):
    monkeypatch.setattr(task_plan, "PART", 6)
    write_data(tmp_path / "data", [f"text {i}" for i in range(30)], PAIRS)
    moments = []
    monkeypatch.setattr(files, "on_commit", moments.append)
    execute("unime.mine.stage", recipe_for(tmp_path, output=tmp_path / "whole"))
    whole = _contents(tmp_path / "whole")
    encoded = len(embedder.encoded)
    assert len(moments) > 15

    for stop in range(1, len(moments) + 1):
        path = recipe_for(tmp_path, output=tmp_path / f"stopped{stop}")
        embedder.encoded.clear()
        seen = 0

        def die(moment, stop=stop):
            nonlocal seen
            seen += 1
            if seen == stop:
                raise Killed(moment)

        monkeypatch.setattr(files, "on_commit", die)
        with pytest.raises(Killed):
            execute("unime.mine.stage", path)
        monkeypatch.setattr(files, "on_commit", None)
        execute("unime.mine.stage", path)
        assert _contents(tmp_path / f"stopped{stop}") == whole
        # At most the part that was under way is encoded twice.
        assert len(embedder.encoded) <= encoded + 6


def test_two_processes_share_parts_and_queries(tmp_path, embedder, monkeypatch):
    """What they find together is what one finds; each encodes its own parts."""
    folder = write_data(tmp_path / "data", [f"text {i}" for i in range(30)], PAIRS)
    monkeypatch.setattr(task_plan, "PART", 2)
    plan = task_plan.plan_task(folder, "t0", ("train",))
    recipe = mine.MineRecipe(
        stage="mine", output="", data="", model=ModelConfig(id="x"), candidates=3
    )
    distinct = list(dict.fromkeys([*plan.queries, *plan.corpus]))
    stored = task_plan.StoredEmbeddings(tmp_path / "parts", distinct)
    counts = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", "2")
        stored.fill(folder, embedder, 8)
        counts.append(len(embedder.encoded))
    assert 0 < counts[0] < counts[1] == len(distinct)
    queries, targets = stored.read(plan.queries), stored.read(plan.corpus)
    shares = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        shares.append(mine.search(plan.own_part(), queries, targets, recipe))
    together, whole = (
        task_plan.TaskResult.joined(shares),
        mine.search(plan, queries, targets, recipe),
    )
    assert len(shares[0].ranks) > 0 < len(shares[1].ranks)
    assert (together.candidates == whole.candidates).all()
    assert (together.ranks == whole.ranks).all()


def _contents(folder: Path) -> dict[str, bytes]:
    found = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("run.json", "plan.json")
    }
    manifest = read_json(folder / "manifest.json")
    # The places differ, and with them the checksum of the manifest.
    del manifest["recipe"]["output"], manifest["checksum"]
    return {**found, "manifest.json": str(manifest).encode()}


def test_no_pairs_in_the_splits_is_an_error(tmp_path, embedder):
    write_data(tmp_path / "data", ["a", "b"], [{"query": 0, "positives": [1], "split": "dev"}])
    with pytest.raises(mine.DataError, match="no pairs in the splits train"):
        execute("unime.mine.stage", recipe_for(tmp_path))


def test_a_real_model_mines(tmp_path):
    from tests.families import build_family

    folder = build_family("qwen2_vl", tmp_path / "model")
    texts = [f"a {colour} circle" for colour in ("red", "blue", "green", "large")]
    pairs = [{"query": i, "positives": [i + 2]} for i in range(2)]
    write_data(tmp_path / "data", texts, pairs)
    recipe = mine.MineRecipe(
        stage="mine",
        output=str(tmp_path / "out"),
        data=str(tmp_path / "data"),
        model=ModelConfig(id=str(folder), dtype="float32"),
    )
    out = open_output(recipe, mine.inputs(recipe))
    mine.run(recipe, out)
    table = read_table(tmp_path / "out" / "mined.parquet").to_pylist()
    assert [row["candidates"] for row in table] == [[3], [2]]
