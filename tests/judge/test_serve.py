"""`judge serve` around a stand-in for vLLM: whose server it is, what it leaves behind, how it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tests.conftest import ROOT
from tests.judge.misbehaving import MODEL
from unime.judge import serve
from unime.judge.engine import EngineError
from unime.judge.serve import Service, running
from unime.judge.transformers_engine import Served
from unime.judge.vllm_engine import VllmOptions

FAKE = """#!{python}
import json, os, signal, subprocess, sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer

words = sys.argv[1:]
port = int(words[words.index("--port") + 1])
start = words.index("--served-model-name") + 1
names = words[start : next(i for i in range(start, len(words)) if words[i].startswith("--"))]
how = os.environ.get("HOW", "")
helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
open(os.environ["PIDS"], "a").write(f"{{os.getpid()}} {{helper.pid}} ")
print("said by the server", flush=True)
if how == "stubborn":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
if how == "dies":
    sys.exit("out of memory")
if how == "slow":
    time.sleep(300)

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        names_listed = {{"data": [{{"id": name}} for name in names]}}
        data = b"" if self.path == "/health" else json.dumps(names_listed).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(data)
    def log_message(self, *words): pass

HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""

COMMAND = """
import sys
from pathlib import Path
import unime.judge.transformers_engine as engine
from unime.judge import commands as cli, serve
from unime.cli import main
serve.PYTHON = Path(sys.argv.pop(1))
engine.served = lambda config: engine.Served("template", {})
main(cli.app)
"""


@pytest.fixture
def python(tmp_path, monkeypatch) -> Path:
    """The stand-in, in a working directory of its own."""
    path = tmp_path / "env" / "python"
    path.parent.mkdir()
    path.write_text(FAKE.format(python=sys.executable))
    path.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIDS", str(tmp_path / "pids"))
    monkeypatch.setattr(serve, "PYTHON", path)
    monkeypatch.setattr(
        "unime.judge.transformers_engine.served", lambda config: Served("template", {})
    )
    return path


def test_the_interpreter_is_the_given_one_then_the_variables_then_the_environment_here(
    python, tmp_path, monkeypatch
):
    monkeypatch.delenv(serve.PYTHON_ENV, raising=False)
    given, named = tmp_path / "given", tmp_path / "named"
    assert serve.interpreter() == python
    monkeypatch.setenv(serve.PYTHON_ENV, str(named))
    with pytest.raises(EngineError, match=f"{named} is missing.* --python .*{serve.PYTHON_ENV}"):
        serve.interpreter()
    named.touch()
    given.touch()
    assert serve.interpreter() == named
    assert serve.interpreter(given) == given
    words = serve.command(OPTIONS, Service(python=given), Path("template"), {})
    assert words[0] == str(given)


OPTIONS = VllmOptions.model_validate({"model": {"id": MODEL}})


def started(folder: Path) -> list[int]:
    """The processes that the stand-ins were."""
    path = folder / "pids"
    return [int(word) for word in path.read_text().split()] if path.exists() else []


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_for(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_servers_at_once_share_nothing_and_add_to_their_logs(python, tmp_path):
    with running(OPTIONS, Service(port=0, with_key=False)) as one:
        with running(OPTIONS, Service(port=0, with_key=False)) as other:
            assert one != other
            assert len(list((tmp_path / "runs").glob("serve-*.log"))) == 2
            assert len(list((tmp_path / "runs").glob("serve-*.jinja"))) == 2
        port = int(one.rpartition(":")[2].removesuffix("/v1"))
    assert not any(is_alive(pid) for pid in started(tmp_path))
    assert not list((tmp_path / "runs").glob("*.jinja"))
    with running(OPTIONS, Service(port=port, with_key=False)):
        pass
    assert (tmp_path / f"runs/serve-{port}.log").read_text().count("said by the server") == 2


class Other(BaseHTTPRequestHandler):
    """A server of the same model that somebody else started."""

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"data": [{"id": "%s"}]}' % MODEL.encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


def test_another_server_on_the_port_is_not_taken_for_ours(python, tmp_path, monkeypatch):
    other = HTTPServer(("127.0.0.1", 0), Other)
    Thread(target=other.serve_forever, daemon=True).start()
    service = Service(port=other.server_port, with_key=False)
    log = tmp_path / "runs" / f"serve-{other.server_port}.log"
    with (
        pytest.raises(EngineError, match="cannot listen at 127.0.0.1, port .*--port"),
        running(OPTIONS, service),
    ):
        pass
    assert not started(tmp_path) and not log.exists()
    # It took the port after we looked.
    monkeypatch.setattr(serve, "_free_port", lambda service: service.port)
    monkeypatch.setenv("HOW", "slow")
    with (
        pytest.raises(EngineError, match=f"another server answers at .*it serves {MODEL}; choose"),
        running(OPTIONS, service),
    ):
        pass
    other.shutdown()
    other.server_close()
    assert not any(is_alive(pid) for pid in started(tmp_path))


def test_a_server_that_dies_is_one_sentence(python, monkeypatch):
    monkeypatch.setenv("HOW", "dies")
    with (
        pytest.raises(EngineError, match="vLLM ended with exit code 1: .*out of memory .all of it"),
        running(OPTIONS, Service(port=0, with_key=False)),
    ):
        pass


@pytest.mark.parametrize("how", ["", "slow", "stubborn"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_whatever_ends_the_command_ends_the_server(python, tmp_path, number, how):
    """Healthy or not; `slow` never becomes healthy, `stubborn` ignores what asks it to stop."""
    if number == signal.SIGKILL and sys.platform != "linux":
        pytest.skip("no PR_SET_PDEATHSIG here")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "stage: judge\noutput: out\ndata: data\nmined: mined\nengine: vllm\n"
        f"engines: {{vllm: {{model: {{id: {MODEL}}}}}}}\n"
    )
    words = [
        sys.executable,
        "-c",
        COMMAND,
        str(python),
        "serve",
        str(recipe),
        "--no-key",
        "--port",
        "0",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOW": how}
    process = subprocess.Popen(
        words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: len(started(tmp_path)) == 2)
    if how != "slow":
        assert process.stdout is not None and "serving" in process.stdout.readline()
    process.send_signal(number)
    if how == "stubborn" and number != signal.SIGKILL:
        time.sleep(0.5)
        process.send_signal(number)  # a second one does not wait
    _, said = process.communicate(timeout=60)
    expected = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGKILL: -signal.SIGKILL}
    assert process.returncode == expected[number], said
    assert "Traceback" not in said
    server, helper = started(tmp_path)
    wait_for(lambda: not is_alive(server))
    if number == signal.SIGKILL:
        os.kill(helper, signal.SIGKILL)  # vLLM ends its own
    else:
        assert not is_alive(helper)


def test_a_server_that_goes_away_ends_the_command(python, tmp_path, monkeypatch):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "stage: judge\noutput: out\ndata: data\nmined: mined\nengine: vllm\n"
        f"engines: {{vllm: {{model: {{id: {MODEL}}}}}}}\n"
    )

    def echo(line: str) -> None:
        if line.startswith("serving"):
            os.kill(started(tmp_path)[0], signal.SIGKILL)

    with pytest.raises(EngineError, match="vLLM ended with exit code -9: said by the server"):
        serve.serve_recipe(recipe, [], Service(port=0, with_key=False), echo=echo)


def test_a_port_that_nobody_may_use_is_one_sentence(python):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for port in (taken.getsockname()[1], 99999):
            with (
                pytest.raises(EngineError, match="cannot listen at 127.0.0.1, port"),
                running(OPTIONS, Service(port=port, with_key=False)),
            ):
                pass
