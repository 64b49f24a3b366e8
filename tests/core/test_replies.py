"""Embeddings from a server: in the order of what was asked, or a sentence about the reply."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from unime.core.errors import ModelError
from unime.core.replies import BadReplyError, embeddings_of
from unime.eval.encoders import embedding_server as endpoint
from unime.eval.encoders.embedding_server import EndpointConfig, load_endpoint
from unime.export.other_loaders import _ask
from unime.models.inputs import ModelInput
from unime.train.teacher import TeacherSection, teach


def data(*rows) -> dict:
    return {"data": list(rows)}


ONE, TWO = {"index": 0, "embedding": [1.0, 0.5]}, {"index": 1, "embedding": [0, 2]}


def test_embeddings_come_in_the_order_that_was_asked():
    assert embeddings_of(data(TWO, ONE), 2) == [[1.0, 0.5], [0.0, 2.0]]
    assert embeddings_of(data({"embedding": [3]}), 1) == [[3.0]]


@pytest.mark.parametrize(
    "reply",
    [
        None, [], "data", {"data": None}, {"data": "ab"}, {"data": {"0": [1.0]}}, data(),
        data(ONE), data(ONE, TWO, TWO), data(ONE, ONE), data(ONE, {"index": 7, "embedding": [1, 2]}),
        data(ONE, {"index": [1], "embedding": [1, 2]}), data(ONE, {"index": 1, "embedding": [1]}),
        data(ONE, {"index": 1, "embedding": ["1", "2"]}), data(ONE, {"index": 1, "embedding": None}),
        data(ONE, {"index": 1, "embedding": [1, 10**400]}),
        data(ONE, {"index": 1, "embedding": [0.0, 0.0]}),
        data({"embedding": []}, {"embedding": []}),
    ],
)  # fmt: skip
def test_other_replies_are_none(reply):
    with pytest.raises(BadReplyError, match="the reply"):
        embeddings_of(reply, 2)


class Replies(BaseHTTPRequestHandler):
    body = b""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


@pytest.mark.parametrize(
    "body", [b"[" * 200_000, b"\xff", b"{}", json.dumps(data({"embedding": "x"})).encode(), b""]
)
def test_a_hostile_reply_is_one_sentence_for_every_client(body, tmp_path, monkeypatch):
    monkeypatch.setattr(Replies, "body", body)
    monkeypatch.setattr(endpoint, "RETRIES", 2)
    monkeypatch.setattr("unime.train.teacher.ATTEMPTS", 2)
    server = HTTPServer(("127.0.0.1", 0), Replies)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    with pytest.raises(ModelError, match="the reply"):
        load_endpoint(EndpointConfig(url=f"{url}/v1", served_model="m")).encode([ModelInput("a")])
    with pytest.raises(ModelError, match="the reply"):
        teach(TeacherSection(id="any", url=url), ["a", "b"], tmp_path)
    if body not in (b"{}", json.dumps(data({"embedding": "x"})).encode()):
        with pytest.raises(ModelError, match="the reply"):
            _ask(f"{url}/v1/embeddings", {})
    server.shutdown()
    server.server_close()
