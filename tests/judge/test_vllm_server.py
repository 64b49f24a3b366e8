"""A real vLLM server: the same scores as in process. Needs .venv-judge (make judge-env)."""

from __future__ import annotations

import subprocess

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT
from tests.judge.test_transformers_engine import content, pair
from tests.serving import VLLM_PYTHON
from unime.core.config import load_recipe
from unime.core.files import read_json
from unime.core.stage import execute
from unime.data.tables import read_table
from unime.judge.engine import Score
from unime.judge.serve import Service, options_of, running
from unime.judge.stage import ScoreRecipe
from unime.judge.transformers_engine import TransformersOptions
from unime.judge.vllm_engine import VllmOptions

PAIRS = 1000

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not VLLM_PYTHON.is_file(), reason="no vLLM here; make judge-env"),
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

    from unime.judge.engine import ImageBytes

    if one.image is None:
        return one
    buffer = io.BytesIO()
    opened: Image.Image = one.image()
    opened.save(buffer, "PNG")
    return replace(one, picture=lambda: ImageBytes("image/png", buffer.getvalue()))


def test_scores_are_those_of_the_engine_in_process(tmp_path, monkeypatch):
    monkeypatch.setenv("UNIME_JUDGE_API_KEY", "a-secret-key")
    monkeypatch.chdir(ROOT)
    values = {
        "model": {
            "id": "assets/judge",
            "dtype": "float32",
            "min_pixels": 4096,
            "max_pixels": 4096,
            "max_length": 512,
        }
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
    one, other = (np.array([score.value for score in scores]) for scores in (served, here))
    assert np.abs(one - other).max() < 1e-3
    # A good judge says no to most of these: small scores have to agree and to differ as well.
    logits = [np.log(values / (1 - values)) for values in (one, other)]
    assert np.abs(logits[0] - logits[1]).max() < 0.1 and np.std(logits[1]) > 0.5
    # Prefixes are found again. How much of the ideal is a benchmark's matter: benchmarks/judge.py.
    assert engine.usage.cached_tokens > 0


def test_smoke_goes_on_with_the_scores_of_a_server(tmp_path, monkeypatch):
    """`recipes/smoke` with engine=vllm: judge, select, stage 2."""
    monkeypatch.setenv("UNIME_JUDGE_API_KEY", "a-secret-key")
    monkeypatch.chdir(ROOT)
    if not (ROOT / "runs/smoke/3_mine/manifest.json").is_file():
        subprocess.run(["make", "smoke"], check=True, capture_output=True)
    recipe = ROOT / "recipes/smoke/4_judge.yaml"
    options = options_of(load_recipe(recipe, ScoreRecipe))
    names = ("mined", "judged", "rows", "trained", "scores")
    places = {name: tmp_path / name for name in names}
    folder, mined = ROOT / "recipes/smoke", f"mined={places['mined']}"
    # A pair takes a CPU a sixtieth of a second.
    few = ["candidates=8", f"output={places['mined']}"]
    execute("unime.mine.stage", folder / "3_mine.yaml", few)
    with running(options, Service(port=0), tmp_path / "serve.log") as url:
        words = [
            mined,
            "engine=vllm",
            f"engines.vllm.endpoints=[{{url: '{url}'}}]",
            f"store={places['scores']}",
            f"output={places['judged']}",
        ]
        execute("unime.judge.stage", recipe, words)
    # The server is gone, and nobody asks for it.
    execute("unime.judge.stage", recipe, [*words[:4], f"output={tmp_path / 'again'}"])
    judged, again = (read_table(tmp_path / name / "judged.parquet") for name in ("judged", "again"))
    assert judged.num_rows and judged.equals(again)
    assert read_json(places["judged"] / "manifest.json")["facts"]["unscored_pairs"] == 0
    assert read_json(tmp_path / "again" / "run.json")["judging"]["calls"] == 0
    chosen = [mined, f"judged={places['judged']}", f"output={places['rows']}"]
    execute("unime.select.stage", folder / "5_select.yaml", chosen)
    rows = f"rows={places['rows']}"
    execute(
        "unime.train.contrast", folder / "6_contrast.yaml", [rows, f"output={places['trained']}"]
    )
    assert (places["trained"] / "model" / "config.json").is_file()
