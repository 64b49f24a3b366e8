"""The table of engines: adding one is a file and a line here.

Each entry is the section of a recipe that holds the engine's options, and knows its engine.
"""

from __future__ import annotations

from judge.fake import FakeOptions
from judge.oracle import OracleOptions
from judge.transformers_engine import TransformersOptions
from judge.vllm_engine import VllmOptions
from unime.core.config import Section


class Engines(Section):
    """Options of every engine by name, so that `engine=NAME` alone switches a recipe over."""

    oracle: OracleOptions = OracleOptions()
    transformers: TransformersOptions | None = None
    vllm: VllmOptions | None = None
    fake: FakeOptions = FakeOptions()


ENGINES = Engines.model_fields
