"""What the vLLM engine asks a server before the work begins: its models, its answer tokens."""

from __future__ import annotations

import json
from typing import Any

from unime.core.replies import finite
from unime.judge import protocol
from unime.judge.endpoint import (
    Endpoint,
    FailedError,
    NotThereError,
    RejectedError,
    UnavailableError,
)
from unime.judge.engine import EngineError


async def answer_tokens(
    endpoint: Endpoint, model: str, prompt: Any
) -> protocol.AnswerTokens | None:
    """Ask a vLLM server for the ids of all single tokens that spell an answer.

    Returns:
        None when the server is none of vLLM's: its most probable tokens must do.

    Raises:
        EngineError: when the model's tokenizer has no token for an answer.
    """
    found: dict[str, set[int]] = {"yes": set(), "no": set()}
    for kind, answers in (("yes", prompt.yes), ("no", prompt.no)):
        for spelling in sorted(protocol.spellings(answers)):
            body = {"model": model, "prompt": spelling, "add_special_tokens": False}
            try:
                ids = (await _patient(endpoint, "/tokenize", body))["tokens"]
                if len(ids) == 1:
                    back = await _patient(endpoint, "/detokenize", {"model": model, "tokens": ids})
                    # A word the vocabulary lacks may come back as one unknown token.
                    if back["prompt"].strip() == spelling.strip():
                        found[kind].add(int(finite(ids[0])))
            except (NotThereError, RejectedError, KeyError, TypeError, ValueError, AttributeError):
                return None
            except (UnavailableError, FailedError) as error:
                raise EngineError(
                    f"{endpoint.options.url} does not say how it spells the answers: {error}; the "
                    "same command tries again"
                ) from None
    for kind, ids in found.items():
        if not ids:
            raise EngineError(
                f"the model {model} has no single token for the answer '{kind}'; use a prompt "
                "file with answers it has"
            )
    return protocol.AnswerTokens(frozenset(found["yes"]), frozenset(found["no"]))


async def check_model(endpoint: Endpoint, model: str) -> None:
    """Ask a server which models it serves.

    Raises:
        EngineError: when it is not there, or does not serve the recipe's.
    """
    names = await served_models(endpoint)
    if model not in names:
        url = endpoint.options.url
        raise EngineError(f"{url} serves {', '.join(names[:10])}, the recipe asks for {model}")


async def served_models(endpoint: Endpoint) -> list[str]:
    """Return the names of the models that a server has.

    Raises:
        EngineError: when it is not there, or is no such server.
    """
    url = endpoint.options.url
    try:
        listed = await _patient(endpoint, "/v1/models")
    except (UnavailableError, FailedError, RejectedError) as error:
        raise EngineError(
            f"no judge at {url}: {error}; start one with: unime judge serve RECIPE"
        ) from None
    try:
        return [str(entry["id"]) for entry in listed["data"]]
    except (KeyError, TypeError):
        raise EngineError(f"{url} is no OpenAI-compatible server: it lists no models") from None


async def _patient(endpoint: Endpoint, path: str, body: dict[str, Any] | None = None) -> Any:
    """Call before the work begins, with a few tries; a server that is not there gets one."""
    from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_exponential

    data = None if body is None else json.dumps(body).encode()
    async for attempt in AsyncRetrying(
        retry=retry_if_exception(
            lambda error: isinstance(error, FailedError | UnavailableError) and endpoint.is_up
        ),
        stop=stop_after_attempt(10),
        wait=wait_exponential(multiplier=0.05, max=5),
        reraise=True,
    ):
        with attempt:
            await endpoint.ready()
            return await endpoint.call(path, data)
    return None
