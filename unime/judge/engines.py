"""The table of engines: adding one is a file and a line here.

Each entry is the section of a recipe that holds the engine's options, and knows its engine. A package
beside this one adds engines by the entry point group "unime.judge_engines": each entry point is such a
section, under the name that recipes use.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from pydantic import create_model

from unime.core.config import Section
from unime.judge.transformers_engine import TransformersOptions
from unime.judge.vllm_engine import VllmOptions


class OwnEngines(Section):
    """Options of every engine by name, so that `engine=NAME` alone switches a recipe over."""

    transformers: TransformersOptions | None = None
    vllm: VllmOptions | None = None


if TYPE_CHECKING:
    Engines = OwnEngines
else:
    _added = {
        point.name: (section, section())
        for point in entry_points(group="unime.judge_engines")
        for section in [point.load()]
    }
    Engines = create_model("Engines", __base__=OwnEngines, **_added)

ENGINES = Engines.model_fields
