"""Questions to the Hub about data sets: what it answers, and what it refuses as one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unime.core.errors import DataError

HUB = "hub:"
WAIT_SECONDS = 20.0


class OutOfReachError(Exception):
    """The Hub does not answer, or must not be asked (HF_HUB_OFFLINE)."""


class NotFetchedError(DataError):
    """Something of the Hub is not here, and the Hub is out of reach."""


def ask(repo: str, revision: str, *, files_metadata: bool = False) -> Any:
    """Return what the Hub says of a data set at a revision (`huggingface_hub.DatasetInfo`).

    Raises:
        DataError: when it refuses.
        OutOfReachError: when it cannot be asked.
    """
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(
            repo, revision=revision, files_metadata=files_metadata, timeout=WAIT_SECONDS
        )
    except Exception as error:
        raise sorted_out(error, repo, revision) from None


def sorted_out(error: Exception, repo: str, revision: str) -> DataError | OutOfReachError:
    """Return an error of the client's as a sentence, or as the Hub being out of reach."""
    from huggingface_hub import errors

    title = f"{HUB}{repo}"
    if isinstance(error, errors.GatedRepoError):
        return DataError(
            f"{title} is gated: accept its terms on its page on the Hub, then log in with "
            "`hf auth login` (or HF_TOKEN)"
        )
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.RepositoryNotFoundError) or status in (401, 403):
        return DataError(
            f"the Hub has no data set {repo}, or it is private (status {status}); check the name, or log "
            "in as somebody who may read it with `hf auth login` (or HF_TOKEN)"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return DataError(
            f"{title} has no revision '{revision}'; expected a branch, a tag or a commit of 40 digits"
        )
    said = " ".join(str(error).split())[:200]
    if isinstance(error, errors.OfflineModeIsEnabled) or _is_offline():
        return OutOfReachError("HF_HUB_OFFLINE forbids to ask the Hub")
    if status is not None and status < 500 and status != 429:
        return DataError(f"{title}: the Hub answers with status {status}: {said}")
    return OutOfReachError(f"the Hub is out of reach ({type(error).__name__}: {said})")


def _is_offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def not_here(what: str, error: OutOfReachError) -> NotFetchedError:
    """Return what to say of something that is not here and cannot be fetched."""
    return NotFetchedError(
        f"{what} was not fetched before, and {error}; run this once where the Hub can be reached"
    )


def check_repo(repo: str) -> None:
    """Check that a text may be the name of a data set.

    Raises:
        DataError: when it cannot.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise DataError(f"{HUB}{repo}: expected {HUB}OWNER/NAME: {error}") from None


def cache_of(repo: str) -> Path:
    """Return the folder in which huggingface_hub keeps a data set."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"datasets--{repo.replace('/', '--')}"
