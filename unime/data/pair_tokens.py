"""How many tokens a judge reads for a pair: rules of thumb, asked before any model is loaded.

`unime data FOLDER` prices a judge that is still to come by them, `unime judge plan` a job that is there.
"""

from __future__ import annotations

from typing import NamedTuple

SIGNS_PER_TOKEN = 4.0
PIXELS_PER_TOKEN = 28 * 28
"""Close to Qwen-VL's; a recipe's own figures come from a measured run."""

PROMPT_TOKENS = 80
"""Of the system text, the question and the template's turns."""

CACHED = 0.98
"""Share of a query's tokens that is computed once for all its candidates."""


class Estimate(NamedTuple):
    """Tokens a pair, on average."""

    tokens: float
    shared: float
    """Of these, how many belong to the query's prefix, computed once for all its candidates."""
    images: float

    @property
    def computed(self) -> float:
        """Tokens a pair that are computed where prefixes are cached."""
        return self.tokens - self.shared * CACHED


def side_tokens(signs: float | int, pixels: float | int) -> float:
    """Return the tokens of one side of a pair, half of the prompt among them.

    Args:
        signs: characters of its texts, the instruction among them.
        pixels: of its image as the model gets it (see `shown_pixels`); 0 without one.
    """
    return signs / SIGNS_PER_TOKEN + pixels / PIXELS_PER_TOKEN + PROMPT_TOKENS / 2


def shown_pixels(pixels: float | int, limits: tuple[int, int] | None) -> float:
    """Return how many pixels of an image a model gets, by its smallest and largest number."""
    return float(pixels if limits is None else min(max(pixels, limits[0]), limits[1]))


def readable(count: float | int) -> str:
    """Return an estimated number with two digits that count: "190,000"."""
    return f"{float(f'{count:.2g}'):,.0f}"
