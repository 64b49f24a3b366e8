"""Whether a model can judge at all: told from its folder at once, not after hours of training and mining.

What answers yes or no about a picture is a generative vision-language model, or a reranker that unime
trained. An embedder's weights load as such a model, too, and answer nothing: it is told by its folder.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from unime.core.errors import ModelError
from unime.core.loading import load_config, load_processor
from unime.core.overwrite import read_mark
from unime.models.model_folder import FACTS
from unime.models.prompts import load_judge_prompt

EXPECTED = (
    "a judge is a vision-language model that answers, such as Qwen/Qwen2.5-VL-7B-Instruct, a reranker by "
    "`unime rerank`, or the address of a server, such as http://127.0.0.1:8000/v1"
)
MODULES = "modules.json"
"""sentence-transformers' list of a model's modules."""


def check_can_judge(folder: Path, name: str | None = None) -> None:
    """Refuse a model that cannot judge; no weights are loaded.

    Args:
        folder: where it lies.
        name: what it is called, where it is not the folder.

    Raises:
        ModelError: when it is none that answers about pictures.
    """
    reason = _reason(folder, whole=name is None)
    if reason is not None:
        raise ModelError(f"{name or folder} cannot judge: {reason}; {EXPECTED}")


def check_not_embedder(model: str, revision: str | None = None) -> None:
    """Refuse an embedder as a judge, where its files are here or on the Hub.

    Raises:
        ModelError: when it is one.
    """
    reason = _embeds(_hub_folder(model, revision))
    if reason is not None:
        raise ModelError(f"{model} cannot judge: {reason}; {EXPECTED}")


def _reason(folder: Path, *, whole: bool) -> str | None:
    """Return why a model cannot judge, or None; of one that is not `whole` there are some files."""
    if _is_reranker(folder):
        return None
    if (reason := _embeds(folder)) is not None:
        return reason
    if not (folder / "config.json").is_file():
        return "the folder holds no model: no config.json"
    if whole and not any(folder.glob("*.safetensors")):
        return "the folder has no weights: no *.safetensors"
    return _answers_nothing(load_config(str(folder)))


def _answers_nothing(config: Any) -> str | None:
    """Return why a configuration's model does not answer about pictures, or None."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as ANSWERING,
    )

    if config.model_type not in ANSWERING:
        return f"a model of the type {config.model_type} does not answer questions about pictures"
    kinds = getattr(config, "architectures", None) or []
    if kinds and all(kind.endswith("Model") for kind in kinds):
        return f"its weights are a {kinds[0]}, without the head that answers"
    return None


def _embeds(folder: Path) -> str | None:
    """Return why a folder is an embedder's, or None."""
    if _is_reranker(folder):
        return None
    if (folder / FACTS).is_file() or (folder / "embedder" / FACTS).is_file():
        return "it was trained by unime to embed, and its answers are worth nothing"
    modules: Any = []
    with suppress(OSError, ValueError):
        modules = json.loads((folder / MODULES).read_text(encoding="utf-8"))
    types = [str(m.get("type")) for m in modules if isinstance(m, dict)]
    if any(kind.endswith("Pooling") for kind in types):
        return "it is an embedder for sentence-transformers, and gives vectors, not answers"
    return None


def _is_reranker(folder: Path) -> bool:
    return read_mark(folder / FACTS).get("kind") == "reranker"


def _hub_folder(model: str, revision: str | None) -> Path:
    """Return a model's folder; of a Hub id the one with what tells an embedder, loaded if need be."""
    if Path(model).exists() or model.count("/") != 1:
        return Path(model)
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    folder = Path(model)
    for name in (FACTS, MODULES):
        # Not there, not at hand, no such repository: whoever loads the model says what is wrong.
        with suppress(OSError, HfHubHTTPError, HFValidationError):
            folder = Path(hf_hub_download(model, name, revision=revision)).parent
    return folder


def check_answers(folder: Path) -> None:
    """Refuse a model whose tokenizer has no token for the judge's answers; a reranker has its own.

    Raises:
        ModelError: when it has none.
    """
    if _is_reranker(folder):
        return
    from unime.models.answers import single_token_spellings

    prompt = load_judge_prompt("judge/yes_no.v1")
    tokenizer = load_processor(str(folder)).tokenizer
    for answers in (prompt.yes, prompt.no):
        single_token_spellings(tokenizer, answers)
