"""The search page among other pages, other programs and slow clients: who is answered, what it costs."""

from __future__ import annotations

import http.client
import io
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import ROOT
from tests.search.test_search import model, photos  # noqa: F401  # fixtures
from unime.core.errors import DataError
from unime.data.images import ImageError
from unime.search import server as server_module
from unime.search.index import open_search
from unime.search.server import SearchServer, query_picture, serve_forever

web = pytest.importorskip("unime.search.web", reason="starlette and uvicorn: unime[search]")


@pytest.fixture
def server(photos: Path, model: Path) -> Iterator[SearchServer]:  # noqa: F811
    found = SearchServer(open_search(photos, model=model), 0, 10)
    thread = threading.Thread(target=found.serve_forever, daemon=True)
    thread.start()
    yield found
    found.shutdown()
    found.server_close()
    thread.join()


def ask(server: SearchServer, method: str, path: str, body=None, **headers: str):
    """Return (status, headers, body)."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, names)
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    return answer.status, answer.headers, data


def test_half_open_connections_cost_no_threads_and_keep_nobody_out(server, monkeypatch):
    monkeypatch.setattr(web, "REQUEST_SECONDS", 3.0)
    ask(server, "GET", "/")
    before = threading.active_count()
    halves = []
    for _ in range(300):
        half = socket.create_connection(("127.0.0.1", server.server_port))
        half.sendall(b"GET / HT")
        halves.append(half)
    assert ask(server, "GET", "/?q=red")[0] == 200
    assert threading.active_count() <= before + 4
    assert len(server._server.server_state.connections) <= web.CONNECTIONS
    # Those that were not pushed out are told, and cut off.
    said = []
    for half in halves:
        half.settimeout(60)
        try:
            said.append(half.recv(100))
        except ConnectionResetError:
            said.append(b"")
        half.close()
    assert any(b"408 Request Timeout" in one for one in said)


def test_a_body_that_does_not_come_ends_with_408(server, monkeypatch):
    monkeypatch.setattr(server_module, "UPLOAD_SECONDS", 0.3)
    with socket.create_connection(("127.0.0.1", server.server_port)) as slow:
        slow.sendall(b"POST /picture HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\nx")
        slow.settimeout(60)
        assert slow.recv(100).startswith(b"HTTP/1.1 408")


def test_status_codes(server, photos, monkeypatch):  # noqa: F811
    monkeypatch.setattr(server_module, "MAX_UPLOAD", 100_000)
    picture = (photos / "red.png").read_bytes()
    assert ask(server, "POST", "/picture", picture)[0] == 200
    assert ask(server, "POST", "/picture", iter([picture[:50], picture[50:]]))[0] == 200
    for size in (100_001, 900_000, 3_000_000):
        try:
            status, _, text = ask(server, "POST", "/picture", b"x" * size)
        except (BrokenPipeError, ConnectionResetError):
            assert size > 1_000_000  # not read to the end
        else:
            assert status == 413 and b"at most" in text
    huge = io.BytesIO()
    Image.new("L", (6000, 4000)).save(huge, "PNG")
    assert ask(server, "POST", "/picture", huge.getvalue())[0] == 413
    assert ask(server, "POST", "/picture", b"")[0] == 400
    assert ask(server, "POST", "/picture", b"no picture")[0] == 400
    assert ask(server, "GET", "/picture")[0] == ask(server, "PUT", "/api")[0] == 405
    assert ask(server, "GET", "/nothing")[0] == ask(server, "GET", "/file/x.png")[0] == 404
    status, headers, body = ask(server, "HEAD", "/?q=red")
    assert status == 200 and int(headers["content-length"]) > 1000 and body == b""


@pytest.mark.parametrize(
    ("headers", "get", "post"),
    [
        ({}, 200, 200),
        ({"Host": "localhost:9999"}, 200, 200),  # a forwarded port
        ({"Origin": "http://127.0.0.1:PORT", "Sec_Fetch_Site": "same-origin"}, 200, 200),
        ({"Host": "evil.example"}, 403, 403),
        ({"Host": "127.0.0.1.evil.example:PORT"}, 403, 403),
        ({"Host": "evil.example:80@127.0.0.1"}, 403, 403),
        ({"Host": "[x"}, 403, 403),
        ({"Origin": "http://evil.example"}, 403, 403),
        ({"Origin": "null"}, 403, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403, 403),
        ({"Sec_Fetch_Site": "same-site", "Sec_Fetch_Mode": "no-cors"}, 403, 403),
        ({"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}, 200, 403),  # a link
    ],
)
def test_other_pages_get_no_answer(server, photos, headers, get, post):  # noqa: F811
    headers = {k: v.replace("PORT", str(server.server_port)) for k, v in headers.items()}
    assert ask(server, "GET", "/api?q=red", **headers)[0] == get
    picture = (photos / "red.png").read_bytes()
    assert ask(server, "POST", "/picture", picture, **headers)[0] == post


def test_the_page_runs_its_own_script_and_no_other(server, photos):  # noqa: F811
    import base64
    import hashlib

    _, headers, page = ask(server, "GET", "/?q=red")
    policy = headers["content-security-policy"]
    for tag in ("script", "style"):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>".encode(), page, re.DOTALL)
        assert f"sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}" in policy
    assert "default-src 'none'" in policy and "unsafe" not in policy
    (photos / "page.md").write_text("<script>alert(1)</script>")
    server.found.update()
    _, headers, body = ask(server, "GET", "/file/page.md")
    assert headers["content-type"] == "text/plain; charset=utf-8" and b"alert" in body
    assert headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in headers["content-security-policy"]


def test_what_became_a_link_out_of_the_folder_is_not_served(server, photos, tmp_path):  # noqa: F811
    secret = tmp_path / "secret.txt"
    secret.write_text("a secret")
    for name in ("recipe.txt", "red.png"):
        assert ask(server, "GET", f"/file/{name}")[0] == 200
        (photos / name).unlink()
        (photos / name).symlink_to(secret)
        assert ask(server, "GET", f"/file/{name}")[0] == 404
    assert ask(server, "GET", "/thumbnail/red.png")[0] == 404


def test_pictures_are_decoded_one_at_a_time_and_never_whole_when_large(server, monkeypatch):
    jpeg = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.new("RGB", (9000, 7000), "red")
    picture.paste("blue", (0, 0, 4500, 7000))
    picture.save(jpeg, "JPEG", exif=exif)
    small = query_picture(jpeg.getvalue())
    assert small.size == (1593, 2048)
    # Upright, as the whole picture is seen: the left half is on top.
    assert small.getpixel((500, 500)) == (0, 0, 254)
    png = io.BytesIO()
    Image.new("1", (9000, 7000)).save(png, "PNG")
    with pytest.raises(ImageError, match="image too large: .*9000 x 7000 pixels, cap 16000000"):
        query_picture(png.getvalue())
    with pytest.raises(ImageError, match="image too large"):
        query_picture(jpeg.getvalue()[:5000])
    at_once = [0, 0]

    def find(text, image, top):
        at_once[0] += 1
        at_once[1] = max(at_once)
        time.sleep(0.05)
        at_once[0] -= 1
        return []

    monkeypatch.setattr(server.found, "find", find)
    with ThreadPoolExecutor(12) as pool:
        answers = list(
            pool.map(lambda _: ask(server, "POST", "/picture", jpeg.getvalue()), range(12))
        )
    assert {status for status, _, _ in answers} == {200} and at_once[1] == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_at_once(photos, model, number):  # noqa: F811
    open_search(photos, model=model)
    words = [sys.executable, "-m", "unime", "search", str(photos), "--serve", "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    process = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    lines = iter(process.stderr.readline, "")
    port = next(int(m[1]) for line in lines if (m := re.search(r"127\.0\.0\.1:(\d+)", line)))
    with socket.create_connection(("127.0.0.1", port)) as half:
        half.sendall(b"POST /picture HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\nx")
        time.sleep(0.3)
        process.send_signal(number)
        process.wait(60)
    said = process.stderr.read()
    assert "search: ended" in said or number == signal.SIGTERM
    assert "Traceback" not in said
    # Without the command's own handler of SIGTERM, a shell makes 143 of it.
    assert process.returncode in ((143, -signal.SIGTERM) if number == signal.SIGTERM else (130,))


def test_mistakes_are_one_sentence(photos, model, monkeypatch):  # noqa: F811
    found = open_search(photos, model=model)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for port in (taken.getsockname()[1], 70000):
            with pytest.raises(DataError, match=f"port {port} cannot be used .*--port"):
                serve_forever(found, port, 5)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(DataError, match=r"--serve needs .* uvicorn: pip install 'unime\[search\]'"):
        serve_forever(found, 0, 5)
