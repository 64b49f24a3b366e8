"""The commands of `unime judge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unime.core.stage import DryRun, Overrides, RecipePath, Restart

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Score (query, candidate) pairs: does the candidate give what the query asks for?",
)

BUDGET_SPENT = 3
"""Exit code of a job that stopped at its budget: scripts must not go on to the next stage."""


@app.command()
def score(
    recipe: RecipePath,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    restart: Restart = False,
    budget: Annotated[
        str | None, typer.Option(help="Stop after '1000 calls', '2.5h' or '20 EUR'.")
    ] = None,
    shard: Annotated[
        str | None, typer.Option(help="Score part i/n only; a last run without it gathers all.")
    ] = None,
    retry: Annotated[
        bool, typer.Option("--retry", help="Ask again for pairs that failed.")
    ] = False,
) -> None:
    """Score a mined table's pairs; what is scored is kept, whatever happens."""
    from unime.core.stage import execute
    from unime.judge.partial import score_part

    words = overrides or []
    if not dry_run and (budget or shard or retry):
        left = score_part(recipe, words, budget=budget, shard=shard, retry=retry)
        if left:
            raise typer.Exit(BUDGET_SPENT)
        if shard:
            return
    execute("unime.judge.stage", recipe, words, dry_run=dry_run, restart=restart, echo=typer.echo)


@app.command()
def plan(
    recipe: RecipePath,
    overrides: Overrides = None,
    rate: Annotated[
        float | None, typer.Option(help="Pairs a second, to turn pairs into hours and money.")
    ] = None,
    measure: Annotated[
        int, typer.Option(help="Score so many pairs now to measure the rate; they are kept.")
    ] = 0,
) -> None:
    """Say what a job would ask for and cost, before it does."""
    from unime.judge.plan import plan_job

    typer.echo(plan_job(recipe, overrides or [], rate=rate, measure=measure))


@app.command()
def status(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Say what of a job is scored, failed and missing."""
    from unime.judge.plan import job_status

    typer.echo(job_status(recipe, overrides or []))


@app.command()
def compact(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Merge the shards of a recipe's score store."""
    from unime.judge.partial import compact_store

    typer.echo(compact_store(recipe, overrides or []))


@app.command()
def export(
    recipe: RecipePath,
    output: Annotated[Path, typer.Option(help="The file to write.")],
    overrides: Overrides = None,
    format: Annotated[  # noqa: A002 - the option's name
        str, typer.Option(help="unime_v2 or sentence_transformers.")
    ] = "unime_v2",
    selected: Annotated[
        Path | None, typer.Option(help="Only the negatives that `unime select` chose there.")
    ] = None,
) -> None:
    """Write judged pairs for other trainers."""
    from unime.judge.export_scores import export_judged

    typer.echo(export_judged(recipe, overrides or [], output, format, selected))


@app.command()
def serve(
    recipe: RecipePath,
    overrides: Overrides = None,
    port: Annotated[int, typer.Option(help="The port; 0 takes a free one.")] = 8000,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    no_key: Annotated[bool, typer.Option("--no-key", help="Let everybody in.")] = False,
    data_parallel: Annotated[int, typer.Option(help="Copies of the model.")] = 1,
    python: Annotated[
        Path | None,
        typer.Option(
            envvar="UNIME_JUDGE_PYTHON",
            help="The interpreter of vLLM's environment; .venv-judge/bin/python by default.",
        ),
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Start a vLLM server for the recipe's judge, until it is interrupted."""
    from unime.judge.serve import Service, serve_recipe

    service = Service(
        host=host,
        port=port,
        with_key=not no_key,
        data_parallel=data_parallel,
        python=python,
    )
    serve_recipe(recipe, overrides or [], service, dry_run=dry_run, echo=typer.echo)


@app.command()
def audit(
    recipe: RecipePath,
    overrides: Overrides = None,
    output: Annotated[
        Path | None, typer.Option(help="The HTML page; beside the scores unless said otherwise.")
    ] = None,
    second: Annotated[
        Path | None, typer.Option(help="Another judge's recipe, to compare with.")
    ] = None,
    sample: Annotated[int, typer.Option(help="Queries that are looked at.")] = 200,
) -> None:
    """Look for faults in a judge: biases, blindness, inconsistency; write an HTML page."""
    from unime.judge.audit.audit import audit_recipe

    typer.echo(audit_recipe(recipe, overrides or [], output, second, sample))
