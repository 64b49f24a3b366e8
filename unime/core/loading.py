"""Every load of somebody's model, processor or configuration: no code of theirs, no pickles.

A checkpoint is data. `auto_map` asks for Python files beside it to be run, and a pickled weight file can
run anything when it is read; transformers would ask on the terminal about the one, and read the other.
`tests/test_architecture.py` finds loads that do not go through here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from unime.core.contents import check_folder
from unime.core.errors import ModelError, cannot_load

NO_CODE: dict[str, Any] = {"trust_remote_code": False}
SAFE: dict[str, Any] = {**NO_CODE, "use_safetensors": True}

_PICKLES = {
    "pytorch_model*.bin": "*.safetensors",
    "adapter_model.bin": "adapter_model.safetensors",
    "open_clip_pytorch_model.bin": "*.safetensors",
}
"""Pickled weights, and what must lie beside them to be read in their place."""


def load_config(name: str, revision: str | None = None) -> Any:
    """Return a checkpoint's configuration.

    Raises:
        ModelError: when there is none, or it needs code of its own; so for all functions here.
    """
    from transformers import AutoConfig

    with loading("configuration", name):
        return AutoConfig.from_pretrained(name, revision=revision, **NO_CODE)


def load_processor(name: str, revision: str | None = None) -> Any:
    """Return a checkpoint's processor."""
    from transformers import AutoProcessor

    with loading("processor", name):
        return AutoProcessor.from_pretrained(name, revision=revision, **NO_CODE)


def load_weights(kind: str, name: str, revision: str | None = None, **options: Any) -> Any:
    """Return a checkpoint's model.

    Args:
        kind: one of transformers' classes, such as "AutoModel".
        name: a folder or Hub id.
        revision: of a Hub id.
        options: of `from_pretrained`.
    """
    import transformers

    with loading("model", name):
        found = getattr(transformers, kind)
        return found.from_pretrained(name, revision=revision, **{**options, **SAFE})


def empty_model(kind: str, config: Any) -> Any:
    """Return a model as its configuration says, without a checkpoint's weights.

    Raises:
        ValueError: when transformers has no such class for it.
    """
    import transformers

    return getattr(transformers, kind).from_config(config, **NO_CODE)


def load_transformer(
    name: str, revision: str | None = None, model: Mapping[str, Any] | None = None, **options: Any
) -> Any:
    """Return sentence-transformers' module around a checkpoint.

    Args:
        name: a folder or Hub id.
        revision: of a Hub id.
        model: how the weights are loaded.
        options: of the module.
    """
    from sentence_transformers.base.modules import Transformer

    source = {} if revision is None else {"revision": revision}
    with loading("model", name):
        return Transformer(
            name,
            model_kwargs={**source, **(model or {}), **SAFE},
            processor_kwargs={**source, **NO_CODE},
            config_kwargs={**source, **NO_CODE},
            **options,
        )


def load_sentence_transformer(
    name: str,
    what: str = "model",
    model_kwargs: Mapping[str, Any] | None = None,
    processor_kwargs: Mapping[str, Any] | None = None,
    **options: Any,
) -> Any:
    """Return a sentence-transformers model.

    Args:
        name: a folder or Hub id.
        what: it is, for the message.
        model_kwargs: how the weights are loaded.
        processor_kwargs: how the processor is.
        options: of `SentenceTransformer`.
    """
    from sentence_transformers import SentenceTransformer

    with loading(what, name):
        return SentenceTransformer(
            name,
            model_kwargs={**(model_kwargs or {}), **SAFE},
            processor_kwargs={**(processor_kwargs or {}), **NO_CODE},
            **{**options, **NO_CODE},
        )


def load_cross_encoder(name: str, **options: Any) -> Any:
    """Return a sentence-transformers reranker."""
    from sentence_transformers import CrossEncoder

    with loading("reranker", name):
        return CrossEncoder(name, model_kwargs=dict(SAFE), **{**options, **NO_CODE})


def load_open_clip_model(architecture: str, pretrained: str | None) -> tuple[Any, Any, Any]:
    """Return an open_clip model, its preprocessing and its tokenizer."""
    import open_clip

    if pretrained and Path(pretrained).is_file() and not pretrained.endswith(".safetensors"):
        raise ModelError(f"cannot load open_clip's {architecture}: {pretrained} {_PICKLED}")
    with loading("open_clip model", architecture):
        model, _, preprocess = open_clip.create_model_and_transforms(
            architecture, pretrained=pretrained, weights_only=True
        )
        return model, preprocess, open_clip.get_tokenizer(architecture)


@contextmanager
def loading(what: str, name: str) -> Iterator[None]:
    """Turn what a library says while it loads into one sentence.

    Raises:
        ModelError: when it fails, or the folder's weights are pickles.
    """
    folder = Path(name.removeprefix("local-dir:"))
    if folder.is_dir() and (pickle := _pickle_in(folder)) is not None:
        raise ModelError(f"cannot load the {what} {name}: {pickle} {_PICKLED}")
    check_folder(folder)
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        raise cannot_load(what, name, _plainly(error)) from error


_PICKLED = (
    "is a pickle, which can run code when it is read; unime reads safetensors only: save the model "
    "as safetensors where you trust it (`model.save_pretrained`), or take a revision that has them"
)


def _plainly(error: Exception) -> Exception:
    text = str(error)
    if "trust_remote_code" in text:
        return ValueError(
            "it asks for code of its own to be run (auto_map or custom modules), which unime never "
            "does; take a model whose architecture transformers knows by itself"
        )
    if "model.safetensors" in text and "not appear to have" in text:
        return ValueError(
            "it has no weights as safetensors; unime reads no other files, since a pickle can run "
            "code when it is read"
        )
    return error


def _pickle_in(folder: Path) -> Path | None:
    """Return a weight file of a model folder, or of its modules, that exists as a pickle only."""
    places = [folder]
    listing = folder / "modules.json"
    if listing.is_file():
        try:
            modules = json.loads(listing.read_text(encoding="utf-8"))
            places += [folder / str(module["path"]) for module in modules]
        except (ValueError, TypeError, KeyError):
            return None  # sentence-transformers says it better
    for place in places:
        for pickled, safe in _PICKLES.items():
            if not any(place.glob(safe)) and (found := min(place.glob(pickled), default=None)):
                return found
    return None
