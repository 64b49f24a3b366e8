"""What a job may spend, and what it has spent."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from typing import NamedTuple

from pydantic import Field

from unime.core.config import Section
from unime.core.errors import RecipeError
from unime.judge.engine import Usage

_BUDGET = re.compile(r"(?P<amount>\d+(?:\.\d+)?)\s*(?P<unit>calls?|h|hours?|[A-Z]{3}|[$€£])")


class Prices(Section):
    """What judging costs; everything that applies is added up."""

    per_hour: float = Field(default=0.0, ge=0.0)
    """Of the machines, while the job runs."""
    per_million_tokens: float = Field(default=0.0, ge=0.0)
    """Prompt tokens, cached or not."""
    per_call: float = Field(default=0.0, ge=0.0)
    currency: str = "EUR"

    def cost(self, calls: float, tokens: float, hours: float) -> float:
        """Return what these cost."""
        return (
            calls * self.per_call + tokens / 1e6 * self.per_million_tokens + hours * self.per_hour
        )

    @property
    def known(self) -> bool:
        """Tell whether anything costs anything."""
        return bool(self.per_hour or self.per_million_tokens or self.per_call)


FREE = Prices()


class SpendingLimit(NamedTuple):
    """A limit on one of these; infinite where there is none."""

    calls: float = float("inf")
    hours: float = float("inf")
    money: float = float("inf")

    @classmethod
    def parse(cls, text: str, prices: Prices) -> SpendingLimit:
        """Read "1000 calls", "2.5h" or "20 EUR".

        Raises:
            RecipeError: when it is none of these, or money without a price in the recipe.
        """
        match = _BUDGET.fullmatch(text.strip())
        if match is None:
            raise RecipeError(f"--budget {text}: expected such as '1000 calls', '2.5h' or '20 EUR'")
        amount, unit = float(match["amount"]), match["unit"]
        if unit.startswith("call"):
            return cls(calls=amount)
        if unit.startswith("h"):
            return cls(hours=amount)
        if not prices.known:
            raise RecipeError(f"--budget {text}: the recipe has no prices; set prices.per_hour=...")
        return cls(money=amount)


UNLIMITED = SpendingLimit()


@dataclass
class Meter:
    """Counts what a job asks for, and says when the budget is spent."""

    budget: SpendingLimit
    prices: Prices
    usage: Usage
    """The engine's own count."""
    asked: int = 0
    """Pairs handed to the engine."""
    _start: float = field(default_factory=time.monotonic)

    @property
    def hours(self) -> float:
        """Hours since the job began."""
        return (time.monotonic() - self._start) / 3600

    @property
    def spent(self) -> float:
        """Money spent so far; what is under way counts like what is done."""
        calls = float(max(self.asked, self.usage.calls))
        tokens = self.usage.tokens * calls / self.usage.calls if self.usage.calls else 0.0
        return self.prices.cost(calls, tokens, self.hours)

    def allowance(self) -> int | None:
        """Return how many pairs may still be asked for; None when there is no limit on calls."""
        if self.hours >= self.budget.hours or self.spent >= self.budget.money:
            return 0
        if self.budget.calls == float("inf"):
            return None
        return max(0, int(self.budget.calls) - self.asked)
