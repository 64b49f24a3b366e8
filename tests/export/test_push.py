"""`unime push` against a local stand-in hub that keeps repositories in memory."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from unime.core.errors import ModelError, OutputError
from unime.export.push import push
from unime.export.verify import SEAL, seal


class Hub(ThreadingHTTPServer):
    """The calls that create_repo, list_repo_tree and create_commit make; every file is a plain blob."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, dict[str, bytes]] = {}
        self.commits: list[str] = []
        self.refuse = False


class _Handler(BaseHTTPRequestHandler):
    server: Hub  # pyright: ignore[reportIncompatibleVariableOverride]

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def answer(self, value: object, status: int = 200, **headers: str) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        for key, text in {"Content-Type": "application/json", **headers}.items():
            self.send_header(key.replace("_", "-"), text)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        found = re.match(r"/api/models/([\w-]+/[\w-]+)(/tree/main)?", self.path)
        assert found, self.path
        repo = self.server.repos.get(found[1])
        if repo is None:
            self.answer({"error": "no such repository"}, 404, X_Error_Code="RepoNotFound")
            return
        if not found[2]:
            self.answer({"id": found[1], "sha": "1" * 40, "siblings": []})
            return
        self.answer(
            [
                {
                    "type": "file", "path": name, "size": len(data),
                    "oid": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest(),
                }
                for name, data in repo.items()
            ]
        )  # fmt: skip

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.refuse:
            self.answer({"error": "you may not write here"}, 403)
        elif self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization', 'me')}/{asked['name']}"
            self.server.repos.setdefault(name, {})
            self.answer({"url": f"http://127.0.0.1:{self.server.server_port}/{name}", "name": name})
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            wanted = json.loads(body)["files"]
            self.answer(
                {
                    "files": [
                        {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                        for f in wanted
                    ]
                }
            )
        elif "/commit/" in self.path:
            self.commit([json.loads(line) for line in body.splitlines()])
        else:
            raise AssertionError(self.path)

    def commit(self, lines: list[dict]) -> None:
        found = re.match(r"/api/models/([\w-]+/[\w-]+)/commit/", self.path)
        assert found, self.path
        repo = self.server.repos[found[1]]
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.server.commits.append(value["summary"])
            elif line["key"] == "file":
                repo[value["path"]] = base64.b64decode(value["content"])
            else:
                assert line["key"] == "deletedFile", line
                del repo[value["path"]]
        self.answer({"commitUrl": f"http://127.0.0.1/{found[1]}", "commitOid": "1" * 40})


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def api(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> HfApi:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    return HfApi(endpoint=f"http://127.0.0.1:{hub.server_port}", token="hf_stand_in")


@pytest.fixture
def export(tmp_path: Path) -> Path:
    folder = tmp_path / "embedder"
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "1_Pooling/config.json").write_text("{}")
    (folder / "README.md").write_text("a card")
    (folder / SEAL).write_text(json.dumps(seal(folder, [])))
    return folder


def test_what_is_not_verified_or_was_changed_is_refused(export: Path, api: HfApi, hub: Hub):
    (export / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(
        ModelError, match=r"changed since it was verified \(model.safetensors\); run"
    ):
        push(export, "me/model", api=api)
    (export / SEAL).unlink()
    with pytest.raises(ModelError, match="is not verified; run `unime verify"):
        push(export, "me/model", api=api)
    assert hub.repos == {}


def test_the_difference_is_shown_first_and_only_the_difference_is_sent(
    export: Path, api: HfApi, hub: Hub
):
    said: list[str] = []
    push(export.parent, "me/model", dry_run=True, api=api, echo=said.append)
    push(export.parent, "me/model", confirm=lambda _: False, api=api, echo=said.append)
    assert hub.repos == {}
    assert "+       7 B  model.safetensors  (new)" in said[0]
    assert said[0].endswith("4 new")
    asked: list[str] = []
    push(export, "me/model", confirm=lambda s: not asked.append(s), api=api, echo=said.append)
    assert asked[0].startswith("upload ") and asked[0].endswith("to me/model?")
    assert hub.repos["me/model"]["model.safetensors"] == b"weights"
    assert hub.repos["me/model"]["1_Pooling/config.json"] == b"{}"

    hub.repos["me/model"]["model-00002-of-00002.safetensors"] = b"an older export's shard"
    hub.repos["me/model"]["figure.png"] = b"the owner's"
    (export / "README.md").write_text("a better card")  # words need no new verification
    changes = push(export, "me/model", api=api, echo=said.append)
    kinds = {change.name: change.kind for change in changes}
    assert kinds == {
        "README.md": "changed", "model.safetensors": "same", "1_Pooling/config.json": "same", SEAL: "same",
        "model-00002-of-00002.safetensors": "removed", "figure.png": "kept",
    }  # fmt: skip
    assert set(hub.repos["me/model"]) == set(kinds) - {"model-00002-of-00002.safetensors"}
    assert hub.repos["me/model"]["README.md"] == b"a better card"
    assert len(hub.commits) == 2
    push(export, "me/model", api=api, echo=said.append)
    assert len(hub.commits) == 2


def test_a_refusal_is_passed_on_in_words(export: Path, api: HfApi, hub: Hub):
    hub.refuse = True
    with pytest.raises(OutputError, match=r"me/model on http://127.*hf auth login"):
        push(export, "me/model", api=api)
