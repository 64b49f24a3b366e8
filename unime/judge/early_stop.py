"""Early stop: a query is asked about no more candidates once enough of them are good negatives.

It saves calls, and it biases: soft labels then see the candidates that were asked, and negatives are
drawn from the first that survive, not from all. So it is off unless a recipe asks for it.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from pydantic import Field

from unime.core.config import Section
from unime.data.tables import cyclic_order


class EarlyStop(Section):
    """When a query has enough negatives; the values of the `unime select` that follows."""

    negatives: int = Field(default=10, gt=0)
    """How many candidates must survive the rule `either`."""
    step: int = Field(default=5, gt=0)
    """Candidates are asked about in the cyclic order of this step, as `unime select` draws them."""
    relative_margin: float = Field(default=0.01, ge=-1, le=1)
    absolute_cut: float = Field(default=0.5, ge=0, le=1)

    def next_places(
        self,
        positive: float,
        scores: Float[np.ndarray, " candidates"],
        unasked: np.ndarray,
    ) -> Int[np.ndarray, " places"]:
        """Return which candidates to ask about now: as many as negatives are lacking.

        Args:
            positive: the positive's score; NaN when it has none.
            scores: the candidates' scores as mined; NaN where there is none.
            unasked: which of them were never asked about.
        """
        cut = np.fmin(positive - self.relative_margin, self.absolute_cut)
        lacking = max(0, self.negatives - int((scores <= cut).sum()))
        order = cyclic_order(len(scores), self.step)
        return order[unasked[order]][:lacking]
