"""The commands of `unime eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unime.core.errors import RecipeError
from unime.core.stage import DryRun, Overrides, RecipePath, Restart, stage_command

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Evaluate embedding models: MMEB, retrieval, compositional understanding.",
)

MTEB = "mteb:"


@app.command()
def run(
    recipe: Annotated[
        str,
        typer.Argument(help="The recipe, a YAML file; or mteb:NAME, a task or benchmark of mteb."),
    ],
    overrides: Overrides = None,
    model: Annotated[
        Path | None, typer.Option(help="mteb: an exported model's folder, or a Hub id.")
    ] = None,
    output: Annotated[Path, typer.Option(help="mteb: where its results go.")] = Path("runs/mteb"),
    dry_run: DryRun = False,
    restart: Restart = False,
) -> None:
    """Evaluate a recipe's models on its benchmarks, or one model on mteb's own tasks."""
    if recipe.startswith(MTEB):
        from unime.eval.mteb_tasks import run_mteb

        if model is None:
            raise RecipeError(f"{recipe} needs a model: --model FOLDER")
        typer.echo(run_mteb(recipe.removeprefix(MTEB), str(model), output))
        return
    from unime.core.stage import execute

    execute(
        "unime.eval.stage",
        Path(recipe),
        overrides or [],
        dry_run=dry_run,
        restart=restart,
        echo=typer.echo,
    )


app.command("rerank", help="Measure a reranker on an embedder's first candidates.")(
    stage_command("unime.eval.rerank_report")
)


@app.command("list")
def list_benchmarks(
    name: Annotated[str | None, typer.Argument(help="One benchmark, with its tasks.")] = None,
) -> None:
    """List the benchmarks; or one benchmark's tasks and published numbers."""
    from unime.eval.inspect_benchmarks import all_benchmarks, one_benchmark

    typer.echo(all_benchmarks() if name is None else one_benchmark(name))


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="A benchmark, as `unime eval list` names it.")],
    to: Annotated[Path, typer.Option(help="The folder its data goes to; a new one.")],
) -> None:
    """Download a benchmark's data, lay it out as its definition expects, check it."""
    from unime.eval.fetch import fetch as fetch_data

    typer.echo(fetch_data(name, to, typer.echo))


@app.command()
def check(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Verify all data of a recipe's benchmarks, every picture decoded, before any compute."""
    from unime.eval.inspect_benchmarks import check_recipe

    typer.echo(check_recipe(recipe, overrides or []))


@app.command()
def inputs(
    recipe: RecipePath,
    folder: Annotated[Path, typer.Argument(help="Where inputs.parquet goes.")],
    overrides: Overrides = None,
) -> None:
    """Write what a recipe's benchmarks would encode, for embeddings made elsewhere."""
    from unime.core.config import load_recipe
    from unime.eval.outputs import write_inputs
    from unime.eval.stage import EvalRecipe, read, select

    loaded = load_recipe(recipe, EvalRecipe, overrides or [])
    pool, _ = read(select(loaded.benchmarks), 0.0)
    typer.echo(f"{len(pool)} inputs in {write_inputs(pool, folder)}")


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="A model's folder in an evaluation's output.")],
    second: Annotated[Path, typer.Argument(help="Another model's.")],
) -> None:
    """Test whether the second model is better than the first, per task and over all."""
    from unime.eval.compare import compare_text

    typer.echo(compare_text(first, second))


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or outputs of an evaluation.")],
    output: Annotated[
        Path | None, typer.Option(help="The page; report.html in the first folder by default.")
    ] = None,
) -> None:
    """Write one self-contained HTML page about evaluations and the runs they belong to."""
    from unime.eval.report.report_page import write_report

    path = write_report(runs, output)
    typer.echo(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")


@app.command()
def table(
    results: Annotated[Path, typer.Argument(help="A results.json.")],
) -> None:
    """Print a result file as the Markdown table that README shows."""
    from unime.eval.markdown import markdown_table

    typer.echo(markdown_table(results), nl=False)
