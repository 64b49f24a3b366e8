"""The table of engines: adding one is a file and a line here.

Each entry is the section of a recipe that holds the engine's options, and knows its engine.
"""

from __future__ import annotations

from research.world.fake_engine import FakeOptions
from research.world.oracle import OracleOptions
from unime.core.config import Section
from unime.judge.transformers_engine import TransformersOptions
from unime.judge.vllm_engine import VllmOptions


class Engines(Section):
    """Options of every engine by name, so that `engine=NAME` alone switches a recipe over."""

    oracle: OracleOptions = OracleOptions()
    transformers: TransformersOptions | None = None
    vllm: VllmOptions | None = None
    fake: FakeOptions = FakeOptions()


ENGINES = Engines.model_fields
