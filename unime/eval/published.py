"""Numbers that others have published, each with its source: `eval/published.yaml`.

They stand beside one's own to compare with, and say where they are from. None was measured here.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, ValidationError

from unime.core.config import Section
from unime.core.errors import RecipeError
from unime.core.yaml_files import read_yaml
from unime.eval.result_table import grid

FILE = Path(__file__).parent.parent / "_published.yaml"


class PublishedSource(Section):
    """Where numbers are from."""

    title: str
    where: str
    """The table or section."""
    url: str


class PublishedTable(Section):
    """Some models on one benchmark, from one source."""

    benchmark: str
    """A benchmark that `unime eval` knows."""
    metric: str
    """In percent."""
    source: PublishedSource
    columns: list[str] = Field(min_length=1)
    """What each number of a row is: "overall", a split, a group or task of the benchmark."""
    rows: dict[str, list[float | None]]
    """By model; none where the source gives no number."""
    note: str = ""
    """What keeps a number from being compared with ours."""


def published(benchmark: str | None = None) -> list[PublishedTable]:
    """Return the published tables, of one benchmark or all.

    Raises:
        RecipeError: when the file is wrong.
    """
    try:
        tables = [PublishedTable.model_validate(entry) for entry in read_yaml(FILE)["tables"]]
    except ValidationError as error:
        raise RecipeError(f"{FILE} is not valid: {error}") from None
    for table in tables:
        for model, values in table.rows.items():
            if len(values) != len(table.columns):
                raise RecipeError(
                    f"{FILE}: {model} has {len(values)} numbers for {len(table.columns)} columns"
                )
    return [table for table in tables if benchmark in (None, table.benchmark)]


def published_text(benchmark: str) -> str:
    """Return a benchmark's published numbers as text; empty where none are known."""
    parts = []
    for table in published(benchmark):
        lines = [
            [model, *("-" if value is None else f"{value:.1f}" for value in values)]
            for model, values in table.rows.items()
        ]
        source = table.source
        parts.append(
            f"published, {table.metric} in percent ({source.title}, {source.where}; {source.url})\n"
            f"{grid(['model', *table.columns], lines)}" + (f"\n{table.note}" if table.note else "")
        )
    return "\n\n".join(parts)
