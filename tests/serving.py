"""A real vLLM server of an exported folder, from .venv-judge or UNIME_JUDGE_PYTHON."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

MINUTES_TO_START = 15
"""Half a minute on a free machine."""
NAME = "mini"
VLLM_PYTHON = Path(os.environ.get("UNIME_JUDGE_PYTHON", ROOT / ".venv-judge/bin/python"))


@contextlib.contextmanager
def vllm_server(folder: Path, log: Path, *arguments: str) -> Iterator[str]:
    """Serve a folder for pooling and yield the server's address; skip where there is no vLLM."""
    if not VLLM_PYTHON.is_file():
        pytest.skip("no vLLM here; run `make judge-env`")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [
        str(VLLM_PYTHON), "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--runner", "pooling",
        "--host", "127.0.0.1", "--port", str(port), "--enforce-eager", "--dtype", "float32",
        "--max-model-len", "1024", "--max-num-seqs", "8", "--served-model-name", NAME, *arguments,
    ]  # fmt: skip
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    with log.open("w") as output:
        process = subprocess.Popen(words, env=env, stdout=output, stderr=output)
    address = f"http://127.0.0.1:{port}"
    try:
        _wait(process, address, log)
        yield address
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(60)
        process.kill()


def ask(address: str, body: dict[str, Any]) -> dict[str, Any]:
    """Post a request about the served model; return the answer."""
    request = urllib.request.Request(
        address, json.dumps({"model": NAME, **body}).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=300) as answer:
        return json.load(answer)


def _wait(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    for _ in range(MINUTES_TO_START * 30):
        assert process.poll() is None, log.read_text()[-3000:]
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/health"):
            return
        time.sleep(2)
    raise AssertionError(f"no server after {MINUTES_TO_START} minutes: {log.read_text()[-3000:]}")
