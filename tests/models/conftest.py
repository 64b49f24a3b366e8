"""One embedder for each family, loaded once."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.families import FAMILIES, build_family
from unime.models.embedder import Embedder
from unime.models.model_config import ModelConfig

Loader = Callable[..., Embedder]


@pytest.fixture(params=FAMILIES, scope="session")
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def load(tmp_path_factory: pytest.TempPathFactory) -> Loader:
    """Load a fresh embedder of a family, on the CPU."""
    folders: dict[str, str] = {}

    def load_family(name: str, **changes: object) -> Embedder:
        if name not in folders:
            folders[name] = str(build_family(name, tmp_path_factory.mktemp(name)))
        settings = {"id": folders[name], "max_length": 256, "max_pixels": 4096} | changes
        return Embedder.load(ModelConfig.model_validate(settings), "cpu")

    return load_family


@pytest.fixture(scope="session")
def embedder(family: str, load: Loader) -> Embedder:
    """The family's embedder; do not change it."""
    return load(family)
