"""What a server sends back, read with care: so many bytes, strict JSON, whole numbers that are some."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    import aiohttp

LIMIT = 16 << 20
"""Bytes of a reply, unpacked; an embedding of 10,000 numbers takes a fiftieth of it."""


class BadReplyError(Exception):
    """A reply that cannot be used, and why; never what the server said at length."""


async def read_reply(response: aiohttp.ClientResponse, limit: int = LIMIT) -> bytes:
    """Return a response's body.

    Raises:
        BadReplyError: when it is larger than `limit` bytes.
        aiohttp.ClientError: when it ends early, or its compression is broken.
    """
    parts: list[bytes] = []
    size = 0
    async for part in response.content.iter_chunked(1 << 16):
        size += len(part)
        if size > limit:
            # The rest is not read: the connection is of no more use.
            response.close()
            raise BadReplyError(f"the reply is larger than {limit >> 20} MB")
        parts.append(part)
    return b"".join(parts)


def parse_reply(data: bytes) -> Any:
    """Return a reply's JSON.

    Raises:
        BadReplyError: when it is none: no UTF-8, NaN or Infinity, a key twice, nested too deep.
    """
    try:
        return json.loads(
            data.decode("utf-8-sig"), object_pairs_hook=_each_once, parse_constant=_refuse
        )
    except RecursionError:
        raise BadReplyError("the reply is nested too deep") from None
    except ValueError:
        raise BadReplyError("the reply is not JSON") from None


def finite(value: Any) -> float:
    """Return a JSON number as a float.

    Raises:
        ValueError: when it is a string, a truth value, too large, or anything else.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("not a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError("not finite")
    return number


def embeddings_of(reply: Any, count: int) -> list[list[float]]:
    """Return the embeddings of an OpenAI-like reply, in the order of what was asked.

    Args:
        reply: decoded.
        count: how many were asked for.

    Raises:
        BadReplyError: when they are not so many, not finite, zero, or of several lengths.
    """
    try:
        rows = {
            row.get("index", place): row["embedding"] for place, row in enumerate(reply["data"])
        }
        vectors = [[finite(value) for value in rows[place]] for place in range(count)]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise BadReplyError(
            f"the reply does not hold {count} embeddings of finite numbers"
        ) from None
    if len(rows) != count or len(reply["data"]) != count:
        raise BadReplyError(f"the reply holds {len(reply['data'])} embeddings, expected {count}")
    if len({len(vector) for vector in vectors}) != 1 or not all(map(any, vectors)):
        raise BadReplyError("the reply's embeddings are empty, zero, or of several lengths")
    return vectors


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
