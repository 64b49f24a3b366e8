"""The probes embedded by other programs: a clean process without this package, a vLLM server."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unime.core.errors import ModelError
from unime.core.replies import LIMIT, BadReplyError, embeddings_of, parse_reply
from unime.data.pixels import to_rgb
from unime.export import image_kinds
from unime.export.plain_loader import SCRIPT

if TYPE_CHECKING:
    from unime.models.embedder import Embedder
    from unime.models.inputs import ModelInput

KINDS = "kinds"
Vectors = dict[str, list[float]]
"""Embedding by probe."""


def in_clean_process(
    embedder: Embedder, folder: Path, named: Mapping[str, ModelInput], python: str = sys.executable
) -> dict[str, Any]:
    """Embed the probes by sentence-transformers and by transformers in a process without us.

    Returns:
        Embeddings by library and probe; under `KINDS` what stock sentence-transformers sees of
        other kinds of picture files (see `unime.export.image_kinds`).
    """
    with tempfile.TemporaryDirectory() as temporary:
        job = job_of(embedder, folder, named, Path(temporary))
        (result,) = run_elsewhere([job], python)
        files = {kind: Path(path) for kind, path in job[KINDS].items()}
        result[KINDS] = image_kinds.compared(image_kinds.ours(embedder, files), result[KINDS])
    for name, encode in named.items():
        # transformers does not cut long texts: such a probe has no counterpart there.
        if embedder.is_truncated(encode):
            result["transformers"].pop(name)
    return result


def job_of(
    embedder: Embedder, folder: Path, named: Mapping[str, ModelInput], temporary: Path
) -> dict[str, Any]:
    """Return what the clean process is told; pictures go into `temporary`."""
    jobs = []
    for number, (name, encode) in enumerate(named.items()):
        image = None
        if encode.image is not None:
            image = str(temporary / f"{number}.png")
            to_rgb(encode.image).save(image)
        text = user_text(embedder, encode)
        jobs.append({"name": name, "prompt_name": side_name(encode), "text": text, "image": image})
    files = {kind: str(path) for kind, path in image_kinds.write_kinds(temporary).items()}
    where = {"folder": str(folder.resolve()), "device": str(embedder.device)}
    return {**where, "probes": jobs, KINDS: files}


def run_elsewhere(
    jobs: Sequence[Mapping[str, Any]], python: str = sys.executable
) -> list[dict[str, Any]]:
    """Run jobs in one fresh interpreter; return embeddings by library and probe.

    Args:
        jobs: made by `job_of`.
        python: the interpreter; that of another environment to verify what lies there.

    Raises:
        ModelError: with the end of what the process said.
    """
    # -I: neither the working directory nor PYTHONPATH can bring this package in.
    done = subprocess.run(
        [python, "-I", "-c", SCRIPT],
        input=json.dumps(list(jobs)),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    if done.returncode != 0:
        folders = ", ".join(job["folder"] for job in jobs)
        raise ModelError(f"{folders} cannot be used without unime:\n{done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def on_server(embedder: Embedder, named: Mapping[str, ModelInput], server: str) -> Vectors:
    """Embed the probes by a running `vllm serve FOLDER --runner pooling`.

    Texts that need cutting are left out: a server cuts, or refuses, by its own rules.

    Args:
        embedder: tells the system texts and what is too long.
        named: the probes.
        server: its address, such as http://127.0.0.1:8000.

    Raises:
        ModelError: when the server cannot be asked, with what it said.
    """
    base = server.rstrip("/").removesuffix("/v1")
    try:
        model = str(_ask(f"{base}/v1/models")["data"][0]["id"])
    except (KeyError, IndexError, TypeError):
        raise ModelError(f"{server} lists no models; is it a vLLM server?") from None
    found = {}
    for name, encode in named.items():
        if embedder.is_truncated(encode):
            continue
        body = {"model": model, "messages": messages_of(embedder, encode)}
        try:
            (found[name],) = embeddings_of(_ask(f"{base}/v1/embeddings", body), 1)
        except BadReplyError as error:
            raise ModelError(f"{server}: {error}") from None
    return found


def messages_of(embedder: Embedder, encode: ModelInput) -> list[dict[str, Any]]:
    """Return one input as OpenAI chat messages, its picture as a data address."""
    content: list[dict[str, Any]] = []
    if encode.image is not None:
        buffer = io.BytesIO()
        to_rgb(encode.image).save(buffer, format="PNG")
        address = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
        content.append({"type": "image_url", "image_url": {"url": address}})
    if text := user_text(embedder, encode):
        content.append({"type": "text", "text": text})
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    if system := embedder.prompt.system(encode.side):
        messages.insert(0, {"role": "system", "content": system})
    return messages


def user_text(embedder: Embedder, encode: ModelInput) -> str:
    """Return the user turn's text: instruction and content, joined by the prompt."""
    from unime.models.prompts import kind_of

    kind = kind_of(encode.text, encode.image is not None)
    return embedder.prompt.render(encode.side, kind, encode.text, encode.instruction).user


def side_name(encode: ModelInput) -> str:
    """Return sentence-transformers' name of an input's side."""
    return "document" if encode.side == "target" else encode.side


def _ask(address: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(  # noqa: S310
        address, data, {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=300) as answer:  # noqa: S310
            return parse_reply(answer.read(LIMIT))
    except BadReplyError as error:
        raise ModelError(f"{address}: {error}") from None
    except urllib.error.HTTPError as error:
        said = error.read().decode(errors="replace")[:500]
        raise ModelError(f"{address} answered {error.code}: {said}") from None
    except OSError as error:
        raise ModelError(
            f"{address} cannot be reached ({error}); start one with "
            "`vllm serve FOLDER --runner pooling`, or leave --server out"
        ) from None
