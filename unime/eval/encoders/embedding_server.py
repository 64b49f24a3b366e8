"""A server with an OpenAI-like embeddings endpoint, such as `vllm serve --runner pooling`.

Every input is sent as chat messages: the system text and the user's picture and words, as the
prompt file renders them. An exported model's chat template ends in the generation prompt, so the
last position is the one that was trained.
"""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from pydantic import Field, field_validator

from unime.core.config import Section
from unime.core.console import progress
from unime.core.errors import ModelError
from unime.core.replies import BadReplyError, embeddings_of, parse_reply, read_reply
from unime.data.pixels import to_rgb
from unime.models.prompts import kind_of, load_prompt

if TYPE_CHECKING:
    from unime.models.inputs import ModelInput

RETRIES = 4


class EndpointConfig(Section):
    """Where it is and what it serves."""

    url: str
    """Up to and with `/v1`."""
    served_model: str
    """The name the server knows the model by."""
    prompt: str = "embed/hierarchical.v1"
    concurrency: int = Field(default=16, gt=0)
    timeout: float = Field(default=120.0, gt=0)
    """Seconds a request may take."""
    api_key: str | None = None

    @field_validator("prompt")
    @classmethod
    def _known_prompt(cls, prompt: str) -> str:
        load_prompt(prompt)
        return prompt


def load_endpoint(config: EndpointConfig, device: str | None = None) -> EndpointModel:
    """Return a client; nothing is asked before the first encode."""
    return EndpointModel(config)


class EndpointModel:
    """Sends every input by itself, many at a time."""

    def __init__(self, config: EndpointConfig) -> None:
        self._config = config
        self._prompt = load_prompt(config.prompt)

    def encode(
        self, inputs: Sequence[ModelInput], batch_size: int = 64, label: str = "encoding"
    ) -> np.ndarray:
        """Return L2-normalised embeddings `(inputs, dim)`.

        Raises:
            ModelError: when the server cannot be reached or refuses an input.
        """
        parts = []
        starts = range(0, len(inputs), max(batch_size, self._config.concurrency))
        step = starts.step
        for start in progress(starts, len(starts), label, "batch"):
            parts.append(asyncio.run(self._batch(inputs[start : start + step])))
        if len({part.shape[1] for part in parts}) != 1:
            raise ModelError(f"{self._config.url} gives embeddings of several lengths")
        vectors = np.concatenate(parts)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    async def _batch(self, batch: Sequence[ModelInput]) -> np.ndarray:
        import aiohttp

        config = self._config
        limit = asyncio.Semaphore(config.concurrency)
        headers = {"Authorization": f"Bearer {config.api_key}"} if config.api_key else {}
        timeout = aiohttp.ClientTimeout(total=config.timeout)
        async with aiohttp.ClientSession(headers=headers, timeout=timeout) as session:

            async def one(encode: ModelInput) -> list[float]:
                async with limit:
                    return await self._ask(session, self._messages(encode))

            vectors = await asyncio.gather(*map(one, batch))
            if len({len(vector) for vector in vectors}) != 1:
                raise ModelError(f"{config.url} gives embeddings of several lengths")
            return np.array(vectors, dtype=np.float32)

    async def _ask(self, session: Any, messages: list[dict[str, Any]]) -> list[float]:
        import aiohttp
        from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt
        from tenacity import wait_exponential as wait

        url = f"{self._config.url.rstrip('/')}/embeddings"
        model = self._config.served_model
        body = {"model": model, "messages": messages, "encoding_format": "float"}
        temporary = (aiohttp.ClientError, TimeoutError, BadReplyError)
        try:
            async for attempt in AsyncRetrying(
                retry=retry_if_exception_type(temporary),
                stop=stop_after_attempt(RETRIES),
                wait=wait(multiplier=0.5, max=20),
                reraise=True,
            ):
                with attempt:
                    async with session.post(url, json=body, allow_redirects=False) as answer:
                        if answer.status in (429, 502, 503, 504):
                            raise aiohttp.ClientConnectionError(f"status {answer.status}")
                        if answer.status != 200:
                            said = (await read_reply(answer)).decode("utf-8", "replace")
                            text = " ".join(said[:10_000].split())[:300]
                            raise ModelError(f"{url} answered {answer.status}: {text}")
                        return embeddings_of(parse_reply(await read_reply(answer)), 1)[0]
        except temporary as error:
            raise ModelError(
                f"{url} gives no answer after {RETRIES} attempts ({type(error).__name__}: {error}); "
                "is the server up, and one of embeddings?"
            ) from None
        raise AssertionError("unreachable")

    def _messages(self, encode: ModelInput) -> list[dict[str, Any]]:
        kind = kind_of(encode.text, encode.image is not None)
        system, user = self._prompt.render(encode.side, kind, encode.text, encode.instruction)
        content: list[dict[str, Any]] = []
        if encode.image is not None:
            content.append({"type": "image_url", "image_url": {"url": _data_url(encode.image)}})
        if user:
            content.append({"type": "text", "text": user})
        start = [{"role": "system", "content": system}] if system else []
        return [*start, {"role": "user", "content": content}]


def _data_url(image: Image.Image) -> str:
    buffer = io.BytesIO()
    to_rgb(image).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
