"""A stand-in for the Hub on this machine: data sets with commits, every request counted."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest


class LocalHub(ThreadingHTTPServer):
    """Answers what huggingface_hub asks about data sets and their files."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.commits: dict[tuple[str, str], dict[str, bytes]] = {}
        """Files by (data set, commit)."""
        self.refs: dict[tuple[str, str], str] = {}
        """Commits by (data set, branch)."""
        self.private: set[str] = set()
        self.requests: list[str] = []
        """ "GET path", "HEAD path", in the order they came."""
        self.hold_at = ""
        """A file's name: half of its bytes come, and then no more."""
        self.reached = threading.Event()
        """Set when that half was sent."""

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def add(self, repo: str, files: dict[str, bytes], branch: str = "main") -> str:
        """Add a commit to a data set's branch; return it."""
        commit = hashlib.sha1(f"{repo} {len(self.commits)}".encode()).hexdigest()
        self.commits[repo, commit] = dict(files)
        self.refs[repo, branch] = commit
        return commit

    def fetched(self) -> list[str]:
        """Return the names of files whose bytes were sent."""
        found = (re.match(r"GET /datasets/[^/]+/[^/]+/resolve/\w+/(.*)", r) for r in self.requests)
        return [match[1] for match in found if match]

    def questions(self) -> list[str]:
        """Return the requests for anything but the bytes of a file."""
        return [r for r in self.requests if not r.startswith("GET /datasets/")]


class _Handler(BaseHTTPRequestHandler):
    server: LocalHub  # pyright: ignore[reportIncompatibleVariableOverride]

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if "/datasets/" not in path:  # what the client would like to know besides
            self.answer({}, 404)
            return
        self.server.requests.append(f"{self.command} {path}")
        listing = re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/revision/(.+)", path)
        file = re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/(\w+)/(.+)", path)
        found = listing or file
        assert found, path
        repo, revision = found[1], found[2]
        if repo in self.server.private:
            self.answer({"error": "log in"}, 401, X_Error_Code="RepoNotFound")
            return
        if not any(name == repo for name, _ in self.server.commits):
            self.answer({"error": "no such repository"}, 404, X_Error_Code="RepoNotFound")
            return
        commit = self.server.refs.get((repo, revision), revision)
        files = self.server.commits.get((repo, commit))
        if files is None:
            self.answer({"error": "no such revision"}, 404, X_Error_Code="RevisionNotFound")
        elif listing:
            self.answer(
                {"id": repo, "sha": commit, "siblings": [_listed(*f) for f in files.items()]}
            )
        else:
            self.send_file(found[3], files[found[3]], commit)

    def send_file(self, name: str, data: bytes, commit: str) -> None:
        start = int(re.findall(r"\d+", self.headers.get("Range", "bytes=0-"))[0])
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", str(len(data) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        if name == self.server.hold_at:
            self.wfile.write(data[start : start + len(data) // 2])
            self.wfile.flush()
            self.server.reached.set()
            self.connection.recv(1)  # until the other side is gone
            return
        self.wfile.write(data[start:])

    def answer(self, value: Any, status: int = 200, **headers: str) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        for key, text in {"Content-Type": "application/json", **headers}.items():
            self.send_header(key.replace("_", "-"), text)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _listed(name: str, data: bytes) -> dict[str, Any]:
    state = hashlib.sha256(data).hexdigest()
    lfs = {"sha256": state, "size": len(data), "pointerSize": 130}
    return {"rfilename": name, "size": len(data), "blobId": state[:40], "lfs": lfs}


@contextmanager
def serving_hub(monkeypatch: pytest.MonkeyPatch, cache: str) -> Iterator[LocalHub]:
    """Serve an empty hub, the only one that huggingface_hub knows of, with a cache of its own."""
    from huggingface_hub import constants

    server = LocalHub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
    url = server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", cache)
    yield server
    server.shutdown()
    server.server_close()
