"""The command `python -m eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unime.cli import Overrides, RecipePath, stage_command

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Evaluate embedding models: MMEB, retrieval, compositional understanding.",
)
app.command("run", help="Evaluate a recipe's models on its benchmarks.")(stage_command("eval.run"))


@app.command("list")
def list_benchmarks(
    name: Annotated[str | None, typer.Argument(help="One benchmark, with its tasks.")] = None,
) -> None:
    """List the benchmarks, or one benchmark's tasks."""
    from eval.listing import all_benchmarks, one_benchmark

    typer.echo(all_benchmarks() if name is None else one_benchmark(name))


@app.command()
def check(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Verify all data of a recipe's benchmarks, every picture decoded, before any compute."""
    from eval.check import check_recipe

    typer.echo(check_recipe(recipe, overrides or []))


@app.command()
def table(
    results: Annotated[Path, typer.Argument(help="A results.json.")],
) -> None:
    """Print a result file as the Markdown table that README shows."""
    from eval.markdown import markdown_table

    typer.echo(markdown_table(results), nl=False)
