"""The judge that `unime data FOLDER --judge` names, checked as far as it is at hand."""

from __future__ import annotations

from pathlib import Path

from unime.core import console
from unime.core.config import checked
from unime.core.errors import ModelError, RecipeError
from unime.data.own_data.judge_recipe import RecipeJudge
from unime.judge.can_judge import EXPECTED, check_answers, check_can_judge
from unime.judge.endpoint import EndpointOptions
from unime.judge.engine import EngineError
from unime.judge.judge import models_served_by
from unime.models.model_folder import model_folder


def judge_named(name: str | None, served_as: str | None = None) -> RecipeJudge | None:
    """Return what a recipe's judge is to be, checked as far as it is at hand.

    Args:
        name: a folder, a Hub id, or a server's address; None for no judge.
        served_as: the name by which a server knows its model; it is asked when this is None.

    Raises:
        ModelError: when it cannot judge, or is not there.
        EngineError: when a server is not there and nobody says what it serves, or it serves another.
        RecipeError: when the names do not fit together.
    """
    is_server = name is not None and name.startswith(("http://", "https://"))
    if served_as is not None and not is_server:
        raise RecipeError(
            f"--judge-model {served_as} names the model of a server: give its address by --judge, or "
            f"the model itself: --judge {served_as}"
        )
    if name is None:
        return None
    if is_server:
        url = checked({"url": name}, EndpointOptions, f"--judge {name}").url
        return RecipeJudge(_served(url, served_as), url)
    folder = _model_at_hand(name)
    if folder is not None:
        check_can_judge(folder)
        check_answers(folder)
    return RecipeJudge(name if folder is None else folder.as_posix())


def _model_at_hand(name: str) -> Path | None:
    """Return the folder of a model that is here; None for a Hub id, loaded before or not.

    Raises:
        ModelError: when it is no Hub id either, or cannot judge by what the Hub's cache has of it.
    """
    if Path(name).is_dir():
        return Path(model_folder(name, "reranker"))
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    owner, _, rest = name.partition("/")
    cached: object = None
    try:
        cached = try_to_load_from_cache(name, "config.json")
    except HFValidationError:
        rest = ""
    if not rest or Path(name).exists():
        raise ModelError(
            f"--judge {name}: there is no such folder, and it is no Hub id; {EXPECTED}"
        )
    if isinstance(cached, str):
        check_can_judge(Path(cached).parent, name)
    elif Path(owner).is_dir():
        here = sorted(path.name for path in Path(owner).iterdir() if path.is_dir())
        raise ModelError(
            f"--judge {name}: there is no such folder ({owner}/ holds {', '.join(here[:8]) or 'none'}); "
            f"where the Hub's {name} is meant, load it first: hf download {name}"
        )
    return None


def _served(url: str, served_as: str | None) -> str:
    """Return the model that a server has, or that a user says it will have."""
    try:
        names = models_served_by(url)
    except EngineError as error:
        if served_as is None:
            raise EngineError(
                f"{error}; or say by --judge-model NAME which model it will serve"
            ) from None
        console.log(f"judge: {error}; the recipe is written all the same")
        return served_as
    if served_as is None and len(names) == 1:
        return names[0]
    if served_as not in names:
        raise EngineError(
            f"{url} serves {', '.join(names[:10]) or 'no model'}: name one of them by --judge-model"
            + ("" if served_as is None else f", got {served_as}")
        )
    return str(served_as)
