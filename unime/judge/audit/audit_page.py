"""The audit's page: one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unime.core import files
from unime.judge.audit.findings import Finding, Scores
from unime.judge.engine import JudgeInput

MARK = 'judge audit">'
"""What tells an audit's page, which may be written over, from another file; also in pages of 0.1.0."""
THUMBNAIL = 96
BINS = 20


class Shown(NamedTuple):
    """One pair on the page."""

    kind: str
    score: float
    note: str
    """What is wrong with it, or what the truth says."""
    instruction: str
    query: JudgeInput
    candidate: JudgeInput


class Page(NamedTuple):
    """What the page says."""

    title: str
    findings: Sequence[Finding]
    measures: Mapping[str, str]
    histograms: Mapping[str, Scores]
    """Scores by kind of pair."""
    cuts: Mapping[str, float]
    """Selection cuts, drawn into every histogram."""
    tables: Mapping[str, Sequence[Mapping[str, Any]]]
    pairs: Sequence[Shown]
    """Worst first."""


def write_page(path: Path, page: Page) -> None:
    """Write the page."""
    import jinja2

    environment = jinja2.Environment(
        # User text is shown as text, whatever is in it.
        autoescape=True,
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
    )
    template = environment.get_template("page.html.jinja")
    histograms = {name: _bars(scores) for name, scores in page.histograms.items() if len(scores)}
    text = template.render(page=page, histograms=histograms, picture=_picture)
    files.write_text(path, text)


def facts_of(page: Page) -> dict[str, Any]:
    """Return what the page says without its pictures, for JSON; NaN is null."""
    return {
        "findings": {finding.fault: finding.sentence for finding in page.findings},
        "measures": dict(page.measures),
        "tables": {
            name: [{key: _plain(value) for key, value in row.items()} for row in rows]
            for name, rows in page.tables.items()
        },
    }


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def _bars(scores: Scores) -> dict[str, Any]:
    known = scores[~np.isnan(scores)]
    counts, _ = np.histogram(known, bins=BINS, range=(0.0, 1.0))
    tallest = max(int(counts.max(initial=0)), 1)
    return {
        "count": len(known),
        "unscored": len(scores) - len(known),
        "heights": [round(100 * int(count) / tallest, 1) for count in counts],
        "counts": counts.tolist(),
    }


def _picture(content: JudgeInput) -> str:
    """Return a content's image as a data URL, small; nothing when it has none."""
    if content.image is None:
        return ""
    image = content.image()
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
