"""What a job asks for, how long it takes and what it costs; said before its first request."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from unime.core import console, files
from unime.core.errors import UnimeError
from unime.core.overwrite import check_replaceable, has_keys, read_mark
from unime.data.image_processor import ModelSection
from unime.data.pair_tokens import Estimate, readable, shown_pixels, side_tokens
from unime.judge.budget import Prices
from unime.judge.engine import JudgeInput
from unime.judge.job import JudgeJob

SAMPLE = 200
"""Queries whose texts and images stand for all when tokens are estimated."""


class Quote(NamedTuple):
    """The price of a job's pairs."""

    estimate: Estimate
    prices: Prices
    rate: float | None
    """Pairs a second; None when nobody has measured it."""
    early_stop: bool

    def hours(self, pairs: int) -> float | None:
        """Return how long so many pairs take; None without a rate."""
        return None if self.rate is None else pairs / self.rate / 3600

    def cost(self, pairs: int) -> float | None:
        """Return what so many pairs cost; None without prices, or with one by the hour and no rate."""
        hours = self.hours(pairs)
        if not self.prices.known or (hours is None and self.prices.per_hour):
            return None
        return self.prices.cost(float(pairs), self.estimate.tokens * pairs, hours or 0.0)

    def sentence(self, missing: int) -> str:
        """Return what is about to be asked, for the log."""
        if not missing:
            return "all pairs were scored before, nothing is asked"
        most = " at most (early stop)" if self.early_stop else ""
        estimate, hours, cost = self.estimate, self.hours(missing), self.cost(missing)
        parts = [
            f"{missing} pairs to be asked{most}",
            f"about {readable(estimate.tokens * missing)} tokens "
            f"({readable(estimate.computed * missing)} with the queries' prefixes cached)",
            f"{estimate.images * missing:.0f} images",
        ]
        if hours is None:
            parts.append("hours unknown (`unime judge plan RECIPE --measure 200` measures them)")
        else:
            parts.append(f"{hours:.2f} hours at {self.rate:.1f} pairs a second")
        if cost is not None:
            parts.append(f"{cost:.2f} {self.prices.currency}")
        elif not self.prices.known:
            parts.append("cost unknown (set prices: in the recipe)")
        return ", ".join(parts)


def estimate_pair(job: JudgeJob, model: ModelSection | None) -> Estimate:
    """Return the tokens of an average pair, estimated from some of the queries.

    Args:
        job: scored or not, its queries are alike.
        model: whose pixel limits images are fitted into.
    """
    limits = None if model is None else (model.min_pixels, model.max_pixels)
    step = max(1, len(job.groups) // SAMPLE)
    tokens = shared = images = pairs = 0.0
    for group in job.groups[::step]:
        for request in job.requests(group):
            query = _tokens(request.query, len(request.instruction), limits)
            tokens += query + _tokens(request.candidate, 0, limits)
            shared += query
            images += (request.query.image is not None) + (request.candidate.image is not None)
            pairs += 1
    pairs = pairs or 1.0
    return Estimate(tokens / pairs, shared / pairs, images / pairs)


def _tokens(content: JudgeInput, more: int, limits: tuple[int, int] | None) -> float:
    pixels = 0.0 if content.image is None else shown_pixels(content.pixels, limits)
    return side_tokens(len(content.text) + more, pixels)


def known_rate(output: Path, fingerprint: str) -> float | None:
    """Return the pairs a second that this output's last run had, or that were measured for it."""
    noted = read_mark(_rate_file(output))
    if noted.get("judge") == fingerprint and _is_rate(noted.get("pairs_per_second")):
        return float(noted["pairs_per_second"])
    path = output / "run.json"
    if not path.is_file():
        return None
    try:
        judging = files.read_json(path).get("judging", {})
        done = judging.get("scored", 0) + judging.get("set_aside", 0)
        return done / judging["seconds"] if done and judging.get("seconds") else None
    except (OSError, ValueError, UnimeError, AttributeError, KeyError, TypeError) as error:
        console.log(f"judge: {path} is damaged ({error}); its rate is not used")
        return None


def note_rate(output: Path, fingerprint: str, rate: float) -> None:
    """Keep a measured rate beside the output, for the stage to price itself by.

    Raises:
        OutputError: when something else is there.
    """
    place = _rate_file(output)
    check_replaceable(place, has_keys("judge", "pairs_per_second"), "unime judge plan --measure")
    files.write_json(place, {"judge": fingerprint, "pairs_per_second": rate})


def _is_rate(value: object) -> bool:
    return isinstance(value, int | float) and 0 < value < float("inf")


def _rate_file(output: Path) -> Path:
    # Beside it: an output holds what its stage wrote, and nothing else.
    return output.with_name(f"{output.name}.rate.json")
