"""Stage 1: the teacher is asked once, the student comes to agree with it, in every family."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from json import dumps, loads
from pathlib import Path

import numpy as np
import pytest

from tests.families import FAMILIES, build_family
from tests.train.folder import drawn_folder
from unime.core import files
from unime.core.errors import DataError, ModelError
from unime.core.provenance import open_output
from unime.data.data_folder import DataFolder
from unime.models.model_config import ModelConfig
from unime.train import distill
from unime.train.distill import DistillRecipe, agreement
from unime.train.teacher import TeacherSection, teach
from unime.train.texts import TextSource, item_texts, read_texts

COLOURS = ("red", "green", "blue", "yellow", "white", "grey")
SHAPES = ("circle", "square", "triangle", "star", "ring")
PLACES = ("above", "below", "left of", "right of")
TEXTS = [
    f"a {colour} {shape} {place} the {other}"
    for colour, shape, place, other in itertools.product(COLOURS, SHAPES, PLACES, SHAPES)
    if shape != other
]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    """A teacher whose embedding is the sum of its words' random vectors."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = sorted({word for text in TEXTS for word in text.split()})
    vocabulary = {word: number for number, word in enumerate(["?", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    weights = np.random.default_rng(0).standard_normal((len(vocabulary), 24)).astype(np.float32)
    folder = tmp_path_factory.mktemp("teacher")
    module = StaticEmbedding(tokenizer, embedding_weights=weights)
    SentenceTransformer(modules=[module], device="cpu").save(str(folder))
    return folder


def make_recipe(folder: Path, teacher: Path, family: str = "qwen2_vl", **values) -> DistillRecipe:
    (folder / "texts.txt").write_text("\n".join([*TEXTS, "", TEXTS[0]]))
    build_family(family, folder / "base")
    return DistillRecipe(
        stage="distill",
        output=str(folder / "out"),
        model=ModelConfig(id=str(folder / "base")),
        teacher=TeacherSection(id=str(teacher)),
        texts=[TextSource(path=str(folder / "texts.txt"))],
        **values,
    )


def test_the_student_comes_to_agree_with_the_teacher(tmp_path, teacher):
    recipe = make_recipe(
        tmp_path,
        teacher,
        held_out=60,
        tune={"method": "full", "parts": ["language"]},
        losses=[{"name": "relational_kl", "options": {"temperature": 0.1}}],
        training={"per_device_train_batch_size": 64, "max_steps": 40, "learning_rate": 5e-3},
    )
    out = open_output(recipe, distill.inputs(recipe))
    distill.run(recipe, out)
    facts = out._facts
    spearman = facts["spearman"]
    assert facts["texts"] == {"texts": len(TEXTS)}
    assert spearman["after"]["all"] > spearman["before"]["all"] + 0.2


class Killed(BaseException):
    """Not an Exception, so that nothing on the way handles it."""


def test_a_stopped_run_finds_the_agreement_of_the_starting_weights_again(
    tmp_path, teacher, monkeypatch
):
    """Also where an earlier version has left that in `before.json`."""
    training = {"global_batch_size": 16, "max_steps": 4, "save_steps": 2, "learning_rate": 1e-2}
    recipe = make_recipe(tmp_path, teacher, held_out=20, training=training)

    def fill(name: str) -> Path:
        own = recipe.model_copy(update={"output": str(tmp_path / name)})
        out = open_output(own, distill.inputs(own))
        if name == "killed" and not out.resumed:
            files.write_json(out.file("before.json"), {"all": 7.0})
        distill.run(own, out)
        out.finish()
        return tmp_path / name

    def stop(moment: str) -> None:
        if moment == "after complete.json":
            raise Killed

    monkeypatch.setattr(files, "on_commit", stop)
    with pytest.raises(Killed):
        fill("killed")
    assert (tmp_path / "killed/checkpoints/checkpoint-2").is_dir()
    monkeypatch.setattr(files, "on_commit", None)
    whole, killed = files.read_json(fill("whole") / "facts.json"), fill("killed")
    assert files.read_json(killed / "facts.json") == whole
    assert whole["spearman"]["before"] != whole["spearman"]["after"]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_passes_through(family, tmp_path, teacher):
    drawn_folder(tmp_path / "d")
    recipe = make_recipe(
        tmp_path,
        teacher,
        family,
        data=str(tmp_path / "d"),
        held_out=20,
        budget={"items": 7},
        tune={"parts": ["language"], "r": 4, "lora_dropout": 0.1},
        training={"per_device_train_batch_size": 16, "max_steps": 2, "learning_rate": 1e-3},
    )
    out = open_output(recipe, {})
    distill.run(recipe, out)
    assert set(out._facts["spearman"]["after"]) >= {"all", "texts"}
    assert (tmp_path / "out/model/model.safetensors").is_file()


def test_the_teacher_is_asked_once(tmp_path, teacher, monkeypatch):
    section = TeacherSection(id=str(teacher))
    first = teach(section, TEXTS[:50], tmp_path)
    assert first.dtype == np.float16
    assert np.allclose(np.linalg.norm(first.astype(np.float32), axis=1), 1, atol=1e-3)
    monkeypatch.setattr("unime.train.teacher._load", lambda _: pytest.fail("asked again"))
    assert np.array_equal(teach(section, TEXTS[:50], tmp_path), first)


def test_another_teacher_than_expected_is_refused(tmp_path, teacher):
    with pytest.raises(ModelError, match="expected one that begins with 00000000"):
        teach(TeacherSection(id=str(teacher), sha256="00000000"), TEXTS[:3], tmp_path)


class PoolingHandler(BaseHTTPRequestHandler):
    """Answers like a pooling server, after refusing every first request, rows out of order."""

    refused = 0

    def do_POST(self) -> None:
        request = loads(self.rfile.read(int(self.headers["Content-Length"])))
        if type(self).refused < 2:
            type(self).refused += 1
            self.send_error(503)
            return
        rows = [
            {"index": i, "embedding": [float(len(text)), 1.0]}
            for i, text in enumerate(request["input"])
        ]
        body = dumps({"data": rows[::-1]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    http = ThreadingHTTPServer(("127.0.0.1", 0), PoolingHandler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{http.server_port}"
    http.shutdown()
    http.server_close()


def test_a_pooling_server_teaches_as_well(tmp_path, server):
    section = TeacherSection(id="any", url=server, batch_size=4)
    texts = ["x" * length for length in range(1, 12)]
    vectors = teach(section, texts, tmp_path).astype(np.float32)
    assert vectors[:, 0] / vectors[:, 1] == pytest.approx(np.arange(1, 12), rel=1e-2)


def test_agreement_is_one_for_equal_geometry_and_minus_one_for_reversed():
    points = np.random.default_rng(0).standard_normal((20, 3))
    turned = points @ np.linalg.qr(np.random.default_rng(1).standard_normal((3, 3)))[0]
    assert agreement(points, turned * 5) > 0.999
    assert agreement(points, np.random.default_rng(2).standard_normal((20, 3))) < 0.5


def test_texts_are_distinct_and_bad_lines_are_named(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"text": " caf\\u00e9"}\n{"text": "cafe\\u0301"}\n{"text": ""}\n')
    assert read_texts(TextSource(path=str(path)), 0) == ["caf\u00e9"]
    path.write_text('{"text": "a"}\n{"txt": "b"}\n')
    with pytest.raises(DataError, match=r"line 2: expected a JSON object with 'text', got"):
        read_texts(TextSource(path=str(path)), 0)
    with pytest.raises(DataError, match=r"none\.txt is missing"):
        read_texts(TextSource(path=str(tmp_path / "none.txt")), 0)


def test_texts_of_a_data_folder(tmp_path):
    data: DataFolder = drawn_folder(tmp_path / "d")
    texts = item_texts(data, None, 0)
    assert len(texts) == len(set(texts)) == 24 * 2 + 8
    assert len(item_texts(data, 10, 0)) == 10
