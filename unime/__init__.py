"""unime: turn any vision-language model into a universal multimodal embedding model.

The command is `unime` (see `unime --help`); the same stages from Python are the names below, each
imported when it is first used:

    >>> from unime import Embedder, load_data, mine_negatives, train_embedder

README.md describes the stages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from unime.api import (
        evaluate,
        export_model,
        judge_candidates,
        load_data,
        mine_negatives,
        select_negatives,
        train_embedder,
        train_reranker,
    )
    from unime.judge.judge import Judge
    from unime.models.embedder import Embedder
    from unime.rerank.reranker import Reranker

__all__ = [
    "Embedder",
    "Judge",
    "Reranker",
    "__version__",
    "evaluate",
    "export_model",
    "judge_candidates",
    "load_data",
    "mine_negatives",
    "select_negatives",
    "train_embedder",
    "train_reranker",
]

_CLASSES = {
    "Embedder": "unime.models.embedder",
    "Judge": "unime.judge.judge",
    "Reranker": "unime.rerank.reranker",
}


def __getattr__(name: str) -> object:
    """Import a public name on its first use: `import unime` alone costs nothing."""
    if name not in __all__:
        raise AttributeError(f"module 'unime' has no attribute '{name}'")
    from importlib import import_module

    found = getattr(import_module(_CLASSES.get(name, "unime.api")), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
