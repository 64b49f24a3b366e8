"""A teacher's embeddings of many texts: computed once, part by part, and kept on disk.

The teacher is a sentence-transformers model (a folder or a Hub id) or a vLLM server started with
`--runner pooling`. Parts are named by a hash of teacher and texts, so an interrupted run takes up
what is there, and nothing stale is ever read.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from pydantic import Field, model_validator

from unime.core import files
from unime.core.config import Section
from unime.core.console import progress
from unime.core.errors import ModelError
from unime.core.hashes import sha256
from unime.core.replies import LIMIT, BadReplyError, embeddings_of, parse_reply, read_reply

PART = 4096
"""Texts in one file of embeddings."""
ATTEMPTS = 5
FILE = "model.safetensors"


class TeacherSection(Section):
    """Who teaches."""

    id: str
    """A sentence-transformers folder or Hub id; with `url` the name the server knows it by."""
    url: str | None = None
    """Base address of a pooling server, such as "http://host:8000"."""
    revision: str | None = None
    sha256: str | None = Field(default=None, min_length=8)
    """The first characters of the sha256 of a folder's model.safetensors."""
    prompt: str = ""
    """Put before every text, where the teacher expects an instruction."""
    batch_size: int = Field(default=64, gt=0)
    concurrency: int = Field(default=8, gt=0)
    """Requests in flight at a server."""

    @model_validator(mode="after")
    def _check_place(self) -> TeacherSection:
        if self.url is not None and self.sha256 is not None:
            raise ValueError("sha256 checks a folder; a server's weights cannot be checked")
        return self


def teach(
    teacher: TeacherSection, texts: Sequence[str], folder: Path
) -> Float[np.ndarray, "texts dim"]:
    """Return the teacher's unit embeddings of texts, as float16.

    Args:
        teacher: the model.
        texts: what to embed.
        folder: where embeddings are kept.

    Raises:
        ModelError: when the teacher cannot be loaded, reached, or is not the expected one.
    """
    parts = [texts[start : start + PART] for start in range(0, len(texts), PART)]
    paths = [folder / f"{_part_name(teacher, part)}.npy" for part in parts]
    if not all(path.exists() for path in paths):
        encode = _open(teacher)
        for path, part in zip(paths, parts, strict=True):
            if not path.exists():
                vectors = _unit(encode([teacher.prompt + text for text in part]))
                with files.atomic_path(path) as temporary:
                    np.save(temporary, vectors.astype(np.float16))
    return np.concatenate([np.load(path) for path in paths])


def _part_name(teacher: TeacherSection, texts: Sequence[str]) -> str:
    identity = teacher.model_dump(exclude={"batch_size", "concurrency"})
    hasher = hashlib.sha256(repr(sorted(identity.items())).encode())
    for text in texts:
        hasher.update(f"{len(text)}:{text}".encode())
    return hasher.hexdigest()[:32]


def _unit(vectors: np.ndarray) -> np.ndarray:
    if not np.isfinite(vectors).all():
        raise ModelError("the teacher returned embeddings that are not numbers")
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(min=1e-12)


def _open(teacher: TeacherSection) -> Callable[[list[str]], np.ndarray]:
    if teacher.url is not None:
        return lambda texts: asyncio.run(_ask(teacher, texts))
    return _load(teacher)


def _load(teacher: TeacherSection) -> Callable[[list[str]], np.ndarray]:
    from unime.core.loading import load_sentence_transformer

    if teacher.sha256 is not None:
        check_weights(Path(teacher.id), teacher.sha256)
    model = load_sentence_transformer(teacher.id, "teacher", revision=teacher.revision)

    def encode(texts: list[str]) -> np.ndarray:
        # Sorted by length, or short texts would pay for long ones.
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        vectors: dict[int, np.ndarray] = {}
        starts = range(0, len(order), teacher.batch_size)
        for start in progress(starts, len(starts), "teacher", "batch"):
            chosen = order[start : start + teacher.batch_size]
            embedded = model.encode(
                [texts[place] for place in chosen],
                batch_size=teacher.batch_size,
                show_progress_bar=False,
            )
            vectors.update(zip(chosen, np.asarray(embedded), strict=True))
        return np.stack([vectors[place] for place in range(len(texts))])

    return encode


def check_weights(folder: Path, prefix: str, file: str = FILE) -> None:
    """Check the hash of a model folder's weights.

    Raises:
        ModelError: when the file is missing or another one.
    """
    path = folder / file
    if not path.is_file():
        raise ModelError(f"{path} is missing; the recipe expects its sha256 to begin with {prefix}")
    found = sha256(path)
    if not found.startswith(prefix):
        raise ModelError(
            f"{path} has sha256 {found[:16]}..., expected one that begins with {prefix}; "
            "this is another model, or a damaged download"
        )


async def _ask(teacher: TeacherSection, texts: list[str]) -> np.ndarray:
    """Embed texts on a server, several requests at a time."""
    import aiohttp

    gate = asyncio.Semaphore(teacher.concurrency)
    batches = [
        texts[start : start + teacher.batch_size]
        for start in range(0, len(texts), teacher.batch_size)
    ]
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=600)) as session:

        async def one(batch: list[str]) -> list[list[float]]:
            async with gate:
                return await _request(session, teacher, batch)

        answers = await asyncio.gather(*map(one, batches))
    vectors = [vector for answer in answers for vector in answer]
    if len({len(vector) for vector in vectors}) > 1:
        raise ModelError(f"the teacher at {teacher.url} gives embeddings of several lengths")
    return np.array(vectors, dtype=np.float32)


async def _request(session: Any, teacher: TeacherSection, batch: list[str]) -> list[list[float]]:
    import aiohttp

    url = f"{(teacher.url or '').rstrip('/')}/v1/embeddings"
    problem = ""
    for attempt in range(ATTEMPTS):
        try:
            async with session.post(url, json={"model": teacher.id, "input": batch}) as answer:
                data = await read_reply(answer, LIMIT + (len(batch) << 20))
                if answer.status == 200:
                    return embeddings_of(parse_reply(data), len(batch))
                problem = f"{answer.status}: {data[:200].decode('utf-8', 'replace')}"
                # Only an overloaded or restarting server is worth asking again.
                if answer.status < 500 and answer.status != 429:
                    break
        except (TimeoutError, aiohttp.ClientError, BadReplyError) as error:
            problem = str(error) or type(error).__name__
        await asyncio.sleep(0.2 * 2**attempt)
    raise ModelError(f"the teacher at {url} does not answer: {problem}")
