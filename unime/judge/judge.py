"""A judge in Python: what an engine thinks of pairs that are given by hand, without tables or a store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, Unpack

import numpy as np
from jaxtyping import Float64
from PIL.Image import Image

from unime.core import console
from unime.core.config import checked
from unime.core.errors import DataError, RecipeError
from unime.data.images import load_file
from unime.data.items import content_id, content_id_from_hash, pair_key
from unime.data.pixels import as_png, pixels_hash, to_rgb
from unime.data.user_input import TextAndImage, UserInput, read_input
from unime.judge import server_checks
from unime.judge.endpoint import Endpoint, EndpointOptions
from unime.judge.engine import EngineError, ImageBytes, JudgeInput, Request
from unime.judge.job import as_sent
from unime.judge.stage import Engines
from unime.judge.vllm_engine import VllmOptions
from unime.models.model_folder import ModelLike, ModelSettings, model_section

T = TypeVar("T")


class Judge:
    """Scores (query, candidate) pairs: P(yes | yes or no) of a multimodal language model.

    Example:
        >>> judge = Judge("assets/judge", min_pixels=4096, max_pixels=4096)
        >>> judge.score([("a red circle", Path("a.png")), ("a red circle", "one circle, red")])
        array([0.03, 0.98])
    """

    def __init__(
        self,
        model: ModelLike,
        *,
        endpoints: str | Sequence[str] = (),
        options: dict[str, Any] | None = None,
        **settings: Unpack[ModelSettings],
    ) -> None:
        """Load a judge's model into this process, or take one behind servers.

        Args:
            model: a folder, a Hub id, a trained reranker, or the address of a server
                ("http://127.0.0.1:8000/v1") that serves one model.
            endpoints: addresses of OpenAI-compatible servers of that model; it is not loaded here.
            options: further options of the engine, as under `engines` in a recipe: `batch_size`,
                `min_answer_mass`, and a server's `timeout_seconds`, `tries`.
            settings: prompt, dtype, pixels, length.

        Raises:
            ModelError: when it cannot be loaded.
            EngineError: when there is no such server.
            RecipeError: for an option that there is not.
        """
        name, values = engine_values(model, endpoints, options or {}, settings)
        chosen = checked({name: values}, Engines, "the judge")
        self._engine = getattr(chosen, name).engine(None)

    @property
    def fingerprint(self) -> str:
        """What the scores depend on beside the pair."""
        return self._engine.fingerprint

    def score(
        self, pairs: Sequence[tuple[UserInput, UserInput]], instruction: str = ""
    ) -> Float64[np.ndarray, " pairs"]:
        """Return each pair's probability of yes.

        Args:
            pairs: queries and candidates: texts (a string is always a text), images, Paths of image
                files, {"text": ..., "image": ...}.
            instruction: what the queries ask for.

        Returns:
            P(yes) / (P(yes) + P(no)), float64; NaN where the judge gives no answer, which is
            logged: it is no "no".

        Raises:
            DataError: when something is no pair of inputs.
            EngineError: when the server is gone.
        """
        if isinstance(pairs, str | bytes) or not hasattr(pairs, "__len__"):
            raise DataError(f"expected a list of pairs, got a {type(pairs).__name__}")
        requests = [self._request(pair, number, instruction) for number, pair in enumerate(pairs)]
        if not requests:
            return np.empty(0)
        scores = outside_a_loop(lambda: self._engine.score(requests))
        failed = [score.reason for score in scores if np.isnan(score.value)]
        if failed:
            console.log(f"judge: {len(failed)} of {len(scores)} pairs have no score: {failed[0]}")
        return np.array([score.value for score in scores], dtype=np.float64)

    def _request(self, pair: object, number: int, instruction: str) -> Request:
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
            raise DataError(f"pair {number}: expected (query, candidate), got {pair!r:.100}")
        query, candidate = (
            _content(read_input(side, f"pair {number}, {role}"))
            for side, role in zip(pair, ("query", "candidate"), strict=True)
        )
        key = pair_key(query.id, instruction, candidate.id, self.fingerprint)
        return Request(key, "", instruction, query, candidate)


def engine_values(
    model: ModelLike, endpoints: str | Sequence[str], options: dict[str, Any], settings: Any
) -> tuple[str, dict[str, Any]]:
    """Return the engine that serves a judge, and its section of a recipe.

    Args:
        model: as in `Judge`.
        endpoints: as in `Judge`.
        options: of the engine.
        settings: of the model.

    Raises:
        EngineError: when a server is named alone and serves no model, or several.
        RecipeError: when a server is named twice.
    """
    addresses = [endpoints] if isinstance(endpoints, str) else list(endpoints)
    if isinstance(model, str) and model.startswith(("http://", "https://")):
        if addresses:
            raise RecipeError(f"name the model beside endpoints, got the address {model}")
        names = models_served_by(model)
        if len(names) != 1:
            raise EngineError(f"{model} serves {', '.join(names) or 'no model'}: name one of them")
        addresses, model = [model], names[0]
    section = {**model_section(model, "judge"), **settings}
    if not addresses:
        return "transformers", {"model": section, **options}
    return "vllm", {"model": section, "endpoints": [{"url": url} for url in addresses], **options}


def outside_a_loop(work: Callable[[], T]) -> T:
    """Do work that runs an event loop of its own, also in a notebook, which has one already."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return work()
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def models_served_by(url: str) -> list[str]:
    """Return the names of the models that a server has.

    Raises:
        EngineError: when it is not there, or is no such server.
        RecipeError: when it is no address.
    """
    standard = VllmOptions(model={"id": "unknown"})  # type: ignore[arg-type]
    options = checked({"url": url}, EndpointOptions, url)

    async def asked() -> list[str]:
        endpoint = Endpoint(options, standard.api_key_env, 30.0, 10.0)
        await endpoint.open()
        try:
            return await server_checks.served_models(endpoint)
        finally:
            await endpoint.close()

    return outside_a_loop(lambda: asyncio.run(asked()))


def _content(given: TextAndImage) -> JudgeInput:
    image = given.image
    if image is None:
        return JudgeInput(content_id(given.text, None), given.text)
    if isinstance(image, Path):
        shown = load_file(image)  # what cannot be used is said before a model is asked
        read: Callable[[], ImageBytes] = partial(_sent, image)
        opened: Callable[[], Image] = partial(load_file, image)
    else:
        shown = to_rgb(image)
        read, opened = partial(_encoded, shown), partial(_same, shown)
    key = content_id_from_hash(given.text, pixels_hash(shown))
    return JudgeInput(key, given.text, opened, shown.width * shown.height, read)


def _sent(path: Path) -> ImageBytes:
    return as_sent(path.read_bytes(), str(path))


def _same(image: Image) -> Image:
    return image


def _encoded(image: Image) -> ImageBytes:
    return ImageBytes("image/png", as_png(image))
