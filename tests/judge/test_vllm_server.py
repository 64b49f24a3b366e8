"""A real vLLM server: the same scores as in process. Needs .venv-judge (make judge-env)."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from judge.serve import PYTHON, Service, running
from judge.transformers_engine import TransformersOptions
from judge.vllm_engine import VllmOptions
from tests.conftest import ROOT
from tests.judge.test_transformers_engine import content, pair
from unime.records import Score

PAIRS = 1000

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / PYTHON).is_file(), reason="no vLLM here; make judge-env"),
]


def image_pairs():
    """A thousand pairs of pictures and texts, fifty to a query."""
    colours = ("red", "green", "blue", "yellow", "purple")
    pairs = []
    for number in range(PAIRS):
        query = content(
            number // 50, f"a {colours[number // 50 % 5]} thing", bool(number // 50 % 4)
        )
        candidate = content(1000 + number, f"{colours[number % 5]} circle", number % 3 > 0)
        pairs.append(pair(number, with_file(query), with_file(candidate)))
    return pairs


def with_file(one):
    """Give a content the bytes that are sent."""
    import io
    from dataclasses import replace

    from judge.pictures import Picture

    if one.image is None:
        return one
    buffer = io.BytesIO()
    opened: Image.Image = one.image()
    opened.save(buffer, "PNG")
    return replace(one, picture=lambda: Picture("image/png", buffer.getvalue()))


def test_scores_are_those_of_the_engine_in_process(tmp_path, monkeypatch):
    monkeypatch.setenv("UNIME_JUDGE_API_KEY", "a-secret-key")
    monkeypatch.chdir(ROOT)
    values = {
        "model": {
            "id": "assets/student",
            "dtype": "float32",
            "min_pixels": 4096,
            "max_pixels": 4096,
            "max_length": 512,
        },
        "min_answer_mass": 0.0,
    }
    options = VllmOptions.model_validate(values)
    asked = image_pairs()
    with running(options, Service(port=0), tmp_path / "serve.log") as url:
        there = options.model_copy(
            update={"endpoints": (options.endpoints[0].model_copy(update={"url": url}),)}
        )
        engine = there.engine(None)
        served: list[Score] = engine.score(asked)
    assert "a-secret-key" not in (tmp_path / "serve.log").read_text()
    here = TransformersOptions.model_validate(values).engine(None).score(asked)
    difference = np.abs([a.value - b.value for a, b in zip(served, here, strict=True)])
    assert difference.max() < 1e-3
    assert np.std([score.value for score in here]) > 1e-3
    # Prefixes are cached. How much of the ideal is a benchmark's matter (benchmarks/judge.py): on a CPU
    # vLLM caches whole blocks of 128 tokens, and 15 % of these short prompts were found again.
    assert engine.usage.cached_tokens > 0
