"""A server with an OpenAI-compatible face that judges by a hash, and misbehaves as it is told."""

from __future__ import annotations

import asyncio
import functools
import gzip
import hashlib
import json
import math
import threading
import zlib
from collections import Counter
from collections.abc import Callable

from aiohttp import web

MODEL = "assets/student"
TOKENS = {"Yes": 1, " Yes": 2, "yes": 3, "No": 4, " No": 5}
Misbehaviour = Callable[[int, str], str | bytes | None]
"""Call number (from 0) and the pair's text -> what goes wrong: a status such as "500", "drop",
"stall", "malformed", "no logprobs", "nan", "echo" (400 with the key in it), "redirect", "gzip" (cut
off), "bomb" (a packed gigabyte); or the whole reply as bytes."""


def probability(text: str) -> float:
    """What the server answers about a pair."""
    digest = hashlib.blake2b(text.encode(), digest_size=4).digest()
    return 0.01 + 0.98 * int.from_bytes(digest, "little") / 2**32


class Server:
    """Runs in a thread; `calls` counts judgements given by the pair's text."""

    def __init__(self, misbehave: Misbehaviour = lambda number, text: None, vllm: bool = True):
        self.misbehave = misbehave
        self.vllm = vllm
        self.model = MODEL
        self.key = "a-secret-key"
        self.seconds = 0.0
        self.restart_at: int | None = None
        """After so many calls the server goes, and comes back a moment later."""
        self.calls: Counter[str] = Counter()
        self.requests: list[dict] = []
        self.in_flight = self.most_in_flight = self.number = 0
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()
        asyncio.run_coroutine_threadsafe(self._cancel(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _cancel(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result()

    async def _start(self) -> None:
        application = web.Application(client_max_size=1 << 26)
        application.router.add_get("/v1/models", self._models)
        application.router.add_post("/v1/chat/completions", self._chat)
        if self.vllm:
            application.router.add_post("/tokenize", self._tokenize)
            application.router.add_post("/detokenize", self._detokenize)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def _go_and_come_back(self) -> None:
        await self._runner.cleanup()
        await asyncio.sleep(0.3)
        await self._start()

    async def _models(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer {self.key}":
            return web.json_response({"error": f"wrong key {self.key}"}, status=401)
        return web.json_response({"data": [{"id": self.model}]})

    async def _tokenize(self, request: web.Request) -> web.Response:
        word = (await request.json())["prompt"]
        return web.json_response({"tokens": [TOKENS[word]] if word in TOKENS else [7, 8]})

    async def _detokenize(self, request: web.Request) -> web.Response:
        (number,) = (await request.json())["tokens"]
        return web.json_response({"prompt": {v: k for k, v in TOKENS.items()}[number]})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        number, self.number = self.number, self.number + 1
        if number == self.restart_at:
            self._restart = asyncio.create_task(self._go_and_come_back())
        try:
            await asyncio.sleep(self.seconds)
            text = json.dumps(body["messages"])
            return await self._answer(request, body, text, self.misbehave(number, text))
        finally:
            self.in_flight -= 1

    async def _answer(self, request, body, text: str, fault) -> web.StreamResponse:
        if isinstance(fault, bytes):
            return web.Response(body=fault, content_type="application/json")
        if fault in ("gzip", "bomb"):
            return web.Response(body=_packed(fault), headers={"Content-Encoding": "gzip"})
        if fault == "drop":
            request.transport.close()
        if fault == "stall":
            await asyncio.sleep(60)
        if fault in (None, "nan"):
            self.calls[text] += fault is None
            return web.json_response(judgement(body, text, fault))
        replies = {
            "malformed": {"text": '{"choices": ['},
            "no logprobs": {"text": '{"choices": [{"message": {"content": "Yes"}}]}'},
            "echo": {"text": f'{{"error": {{"message": "bad key {self.key}"}}}}', "status": 400},
            "redirect": {"status": 307, "headers": {"Location": "http://127.0.0.1:9/v1"}},
            "429": {"status": 429, "headers": {"Retry-After": "0.05"}, "text": "slow down"},
        }
        status = int(fault) if fault.isdigit() else 200
        broken = {"text": '{"error": {"message": "out of order"}}', "status": status}
        return web.Response(**replies.get(fault, broken))


@functools.cache
def _packed(fault: str) -> bytes:
    if fault == "gzip":
        return gzip.compress(b'{"choices": []}' * 1000)[:-20]
    packer = zlib.compressobj(wbits=31)
    zeros = bytes(1 << 20)
    return b"".join([*(packer.compress(zeros) for _ in range(1 << 10)), packer.flush()])


def judgement(body: dict, text: str, fault: str | None) -> dict:
    yes = probability(text)
    # The spellings share their answer's mass; a tenth goes to other tokens.
    words = {"Yes": 0.5 * yes, " Yes": 0.3 * yes, "yes": 0.2 * yes}
    words |= {"No": 0.6 * (1 - yes), " No": 0.4 * (1 - yes)}
    logs = {word: math.log(0.9 * mass) for word, mass in words.items()}
    if fault == "nan":
        logs["Yes"] = 5.0
    if "logprob_token_ids" in body:
        assert sorted(body["logprob_token_ids"]) == sorted(TOKENS.values())
        logs = {f"token_id:{TOKENS[word]}": value for word, value in logs.items()}
    else:
        logs |= {f"other {i}": math.log(1e-6) for i in range(body["top_logprobs"] - len(logs))}
    listed = [{"token": word, "logprob": value} for word, value in logs.items()]
    return {
        "choices": [{"logprobs": {"content": [{"top_logprobs": listed}]}}],
        "usage": {"prompt_tokens": 100, "prompt_tokens_details": {"cached_tokens": 40}},
    }
