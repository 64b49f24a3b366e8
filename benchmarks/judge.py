"""The judge beside its bounds: `python -m benchmarks.judge [part ...]`.

- client:  CPU a pair of the client, image encoded once (`cpu_ms_per_pair`).
- store:   opening ten million rows for the first time (`open_10m_seconds`, `open_10m_gb`).
- engine:  the in-process engine over a `generate()` loop over single pairs (`engine_speedup`).
- server:  what the client gets of a real vLLM server, beside a bare load generator with the same
  HTTP library and concurrency (`share_of_server`), and of its prefix cache (`prefix_hit_share`).
"""

from __future__ import annotations

import asyncio
import io
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import interleaved_rounds, median_ratio, report, say
from unime.judge.engine import ImageBytes, JudgeInput, Request
from unime.judge.serve import CPU_BLOCK
from unime.judge.vllm_engine import VllmEngine, VllmOptions

MODEL = {
    "id": "assets/judge",
    "dtype": "float32",
    "min_pixels": 4096,
    "max_pixels": 4096,
    "max_length": 512,
}
CONCURRENCY = 16
CANDIDATES = 50
QUERIES_IN_CACHE = 20


def pairs(queries: int, seed: int = 0, size: int = 64) -> list[list[Request]]:
    """Return queries with a picture and candidates with a text, grouped by query."""
    random = np.random.default_rng(seed)
    groups = []
    for number in range(queries):
        query = _picture(f"{seed} {number}", random, size)
        groups.append(
            [
                Request(
                    f"{seed:04}{number:06}{place:06}".encode(),
                    "task",
                    "Find the caption of the picture",
                    query,
                    JudgeInput(b"%016d" % place, f"a picture of {random.integers(10**9)} things"),
                )
                for place in range(CANDIDATES)
            ]
        )
    return groups


def client() -> dict[str, float]:
    """Measure the client's CPU time against a server that does nothing, in another process."""
    ready: Any = multiprocessing.get_context("spawn").Queue()
    server = multiprocessing.get_context("spawn").Process(target=_serve, args=(ready,))
    server.start()
    try:
        engine = _engine(f"http://127.0.0.1:{ready.get()}/v1", 64)
        _run(engine, pairs(4, seed=1, size=112))
        start = time.process_time()
        done = _run(engine, pairs(40, seed=2, size=112))
        return {"cpu_ms_per_pair": round(1000 * (time.process_time() - start) / done, 3)}
    finally:
        server.terminate()
        server.join()


def store(rows: int = 10_000_000) -> dict[str, float]:
    """Measure the first opening of many rows, in a fresh process; its index is built there."""
    import pyarrow as pa

    from unime.judge.store.shards import Shards, table_of
    from unime.judge.store.sorted_rows import Rows

    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        shards = Shards(folder)
        part = rows // 10
        for _ in range(10):
            high, low = (random.integers(0, 2**64, part, dtype=np.uint64) for _ in range(2))
            values = random.random(part, dtype=np.float32)
            columns = Rows(high, low, values, np.full(part, -1, dtype=np.int32))
            shards.write(table_of(columns, pa.array(["judge"] * part).dictionary_encode()))
        context = multiprocessing.get_context("spawn")
        results: Any = context.Queue()
        ratios = {}
        for name in ("open_10m", "reopen_10m"):
            process = context.Process(target=_open, args=(folder, results))
            process.start()
            seconds, gigabytes = results.get()
            process.join()
            ratios |= {f"{name}_seconds": seconds, f"{name}_gb": gigabytes}
        return ratios


def engine() -> dict[str, float]:
    """Measure the in-process engine beside a loop of `generate()` over single pairs."""
    from unime.judge.transformers_engine import TransformersOptions

    values = {"model": MODEL, "min_answer_mass": 0.0, "batch_size": 64}
    scorer = TransformersOptions.model_validate(values).engine(None)
    wanted = [request for group in pairs(2) for request in group]
    seconds = interleaved_rounds(
        {
            "engine": lambda: scorer.score(wanted),
            "generate": lambda: _generate(scorer, wanted),
        },
        rounds=3,
    )
    return {"engine_speedup": median_ratio(seconds, "generate", "engine")}


def server(url: str | None = None) -> dict[str, float]:
    """Measure the client beside a bare load generator on one vLLM server."""
    if url is not None:
        return _beside(url)
    from unime.judge.serve import Service, running

    # A cache of about 20 queries' prefixes, beside what is under way.
    prefix, whole = _lengths()
    blocks = QUERIES_IN_CACHE * prefix // CPU_BLOCK
    blocks += CONCURRENCY * (-(-whole // CPU_BLOCK) - prefix // CPU_BLOCK + 1)
    slots = ("--max-num-seqs", str(CONCURRENCY))
    extra = ("--num-gpu-blocks-override", str(blocks), *slots)
    options = VllmOptions.model_validate({"model": MODEL})
    service = Service(port=0, with_key=False, extra=extra)
    with running(options, service) as address:
        return _beside(address)


PARTS: dict[str, Callable[[], dict[str, float]]] = {
    "client": client,
    "store": store,
    "engine": engine,
    "server": server,
}


def _beside(url: str) -> dict[str, float]:
    seeds = iter(range(100, 200))
    bodies = _recorded(pairs(6, seed=99))
    seconds = interleaved_rounds(
        {
            "client": lambda: _run(_engine(url, CONCURRENCY), pairs(6, seed=next(seeds))),
            "bare": lambda: asyncio.run(_bare(url, bodies(next(seeds)))),
        },
        rounds=3,
    )
    ratios = {"share_of_server": median_ratio(seconds, "bare", "client")}
    grouped = pairs(2 * QUERIES_IN_CACHE, seed=300)
    flat = [[request] for group in pairs(2 * QUERIES_IN_CACHE, seed=301) for request in group]
    np.random.default_rng(0).shuffle(flat)  # type: ignore[arg-type]
    for name, groups in (("prefix_hit_share", grouped), ("prefix_hit_share_random", flat)):
        used = _engine(url, CONCURRENCY)
        done = _run(used, groups)
        # Ideal: the whole blocks that a query's calls have in common, in all of them but its first.
        ideal = _lengths()[0] * done * (CANDIDATES - 1) / CANDIDATES
        ratios[name] = round(used.usage.cached_tokens / ideal, 3)
    return ratios


@lru_cache(maxsize=1)
def _lengths() -> tuple[int, int]:
    """Return how many tokens a query's calls have in common, in whole blocks, and one has in all."""
    from unime.judge.transformers_engine import TransformersOptions, as_pair

    options = TransformersOptions.model_validate({"model": MODEL, "min_answer_mass": 0.0})
    scorer = options.engine(None).scorer
    asked = [as_pair(request) for request in pairs(1, seed=98)[0]]
    rows = [tokens.ids.tolist() for tokens in scorer.tokens(asked)]
    common = next(i for i, some in enumerate(zip(*rows, strict=False)) if len(set(some)) > 1)
    return common // CPU_BLOCK * CPU_BLOCK, max(map(len, rows))


def _engine(url: str, concurrency: int) -> VllmEngine:
    values = {
        "model": MODEL,
        "min_answer_mass": 0.0,
        "endpoints": [{"url": url, "concurrency": concurrency}],
    }
    return VllmOptions.model_validate(values).engine(None)


def _run(used: VllmEngine, groups: list[list[Request]]) -> int:
    return sum(len(part) for part in used.stream(iter(groups)))


def _recorded(groups: list[list[Request]]) -> Callable[[int], list[bytes]]:
    from unime.judge.protocol import AnswerTokens, Bodies
    from unime.models.prompts import load_judge_prompt

    tokens = AnswerTokens(frozenset({1, 2, 3}), frozenset({4, 5, 6}))
    build = Bodies(load_judge_prompt("judge/yes_no.v1"), MODEL["id"], tokens)

    def bodies(seed: int) -> list[bytes]:
        return [build.of(request) for group in pairs(len(groups), seed) for request in group]

    return bodies


async def _bare(url: str, bodies: list[bytes]) -> None:
    """Send bodies as fast as the server takes them; look at nothing."""
    import os

    import aiohttp

    waiting: Iterator[bytes] = iter(bodies)
    key = os.environ.get("UNIME_JUDGE_API_KEY", "")
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession(headers=headers) as session:

        async def worker() -> None:
            for body in waiting:
                async with session.post(f"{url}/chat/completions", data=body) as response:
                    await response.read()

        await asyncio.gather(*(worker() for _ in range(CONCURRENCY)))


def _generate(scorer: Any, wanted: list[Request]) -> None:
    """Ask pair by pair, as a script around `generate()` does."""
    prompt, processor, model = scorer.scorer.prompt, scorer._processor, scorer._model
    for request in wanted:
        rendered = prompt.render(request.instruction, ("", True), (request.candidate.text, False))
        user = {"role": "user", "content": [*rendered.query, *rendered.candidate]}
        text = processor.apply_chat_template([user], tokenize=False, add_generation_prompt=True)
        assert request.query.image is not None
        inputs = processor(text=[text], images=[[request.query.image()]], return_tensors="pt")
        model.generate(**inputs, max_new_tokens=1, output_scores=True, return_dict_in_generate=True)


def _picture(name: str, random: np.random.Generator, size: int) -> JudgeInput:
    from PIL import Image

    image = Image.fromarray(random.integers(0, 255, (size, size, 3), np.uint8))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    picture = ImageBytes("image/png", buffer.getvalue())
    return JudgeInput(name.encode().ljust(16)[:16], "", image.copy, size * size, lambda: picture)


def _open(folder: str, results: Any) -> None:
    from unime.judge.store import ScoreStore

    start = time.perf_counter()
    opened = ScoreStore(Path(folder))
    seconds = round(time.perf_counter() - start, 3)
    assert len(opened) > 0
    results.put((seconds, round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 3)))


def _serve(ready: Any) -> None:
    """Be a server that judges without looking."""
    from aiohttp import web

    async def models(request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": MODEL["id"]}]})

    async def chat(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(text=JUDGEMENT, content_type="application/json")

    async def main() -> None:
        application = web.Application(client_max_size=1 << 26)
        application.router.add_get("/v1/models", models)
        application.router.add_post("/v1/chat/completions", chat)
        runner = web.AppRunner(application)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        ready.put(runner.addresses[0][1])
        await asyncio.Event().wait()

    asyncio.run(main())


JUDGEMENT = json.dumps(
    {
        "choices": [
            {
                "logprobs": {
                    "content": [
                        {
                            "top_logprobs": [
                                {"token": word, "logprob": value}
                                for word, value in [("Yes", -0.7), ("No", -0.7)]
                                + [(f"t{i}", -14.0) for i in range(18)]
                            ]
                        }
                    ]
                }
            }
        ],
        "usage": {"prompt_tokens": 100},
    }
)


def main(names: list[str]) -> None:
    """Run some parts, or all."""
    ratios: dict[str, float] = {}
    for name in names or PARTS:
        part = PARTS[name] if name in PARTS else partial(server, name)
        found = part()
        say(f"{name}: {found}")
        ratios |= found
    report("judge", ratios, parts=names or list(PARTS), model=MODEL["id"], concurrency=CONCURRENCY)


if __name__ == "__main__":
    main(sys.argv[1:])
