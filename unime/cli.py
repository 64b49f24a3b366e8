"""The command `unime`. Imports nothing heavy: each verb imports what it runs."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from unime import stages
from unime.core.console import log, start_logging
from unime.core.errors import (
    TERMINATED,
    DataError,
    RecipeError,
    Terminated,
    UnimeError,
    extra_missing,
    sentence_of,
)
from unime.core.stage import DryRun, Overrides, RecipePath, Restart, stage_command
from unime.eval.commands import app as evaluation
from unime.judge.commands import app as judge


class QuoteUse(StrEnum):
    """Values of --quoting; `unime.data.readers.base.Quoting`, as every version of typer takes them."""

    AUTO = "auto"
    STANDARD = "standard"
    NONE = "none"


app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Turn a vision-language model into a universal multimodal embedding model.",
)


# `judge` and `eval` are groups of verbs, `data` (below) takes own data too. Stages of other packages
# are run by their own commands.
for _name, _entry in stages.STAGES.items():
    if _entry.words == ("unime", _name) and _name != "data":
        app.command(_name, help=_entry.help)(stage_command(_entry.module))
app.add_typer(judge, name="judge", help=judge.info.help)
app.add_typer(evaluation, name="eval", help=evaluation.info.help)


@app.command(help=stages.STAGES["data"].help)
def data(  # noqa: PLR0913, PLR0917  # typer's options are arguments
    source: Annotated[
        str,
        typer.Argument(
            help="A recipe; or your data, for a recipe of its own: a folder, a captions file, hub:OWNER/NAME."
        ),
    ],
    overrides: Overrides = None,
    dry_run: DryRun = False,
    restart: Restart = False,
    model: Annotated[
        str | None, typer.Option(help="Own data: the model to start from, a folder or Hub id.")
    ] = None,
    into: Annotated[
        Path | None, typer.Option(help="Own data: the recipe's folder; recipes/NAME by default.")
    ] = None,
    language: Annotated[
        str | None, typer.Option(help="Own data: which captions, where they come by language.")
    ] = None,
    encoding: Annotated[
        str | None,
        typer.Option(help="Own data: of text files, such as cp1251; told by their bytes."),
    ] = None,
    quoting: Annotated[
        QuoteUse, typer.Option(help="Own data: whether quotes in CSV and TSV may hold line breaks.")
    ] = QuoteUse.AUTO,
    judge: Annotated[
        str | None,
        typer.Option(help="Own data: who judges negatives, a folder, Hub id or server's address."),
    ] = None,
    judge_model: Annotated[
        str | None, typer.Option(help="Own data: the model of that server, where it has several.")
    ] = None,
) -> None:
    """Run the stage, or prepare own data."""
    from unime.data.own_data.prepare import is_own_data, prepare

    if is_own_data(source):
        from unime.judge.own_judge import judge_named

        judging = judge_named(judge, judge_model)
        prepare(source, model, into, language, typer.echo, judging, encoding, quoting.value)
    elif judge or judge_model:
        raise RecipeError(f"--judge is for own data; {source} is a recipe: change its engine there")
    else:
        stage_command("unime.data.stage")(Path(source), overrides, dry_run, restart)


@app.command()
def run(
    folder: Annotated[Path, typer.Argument(help="A recipe folder, such as recipes/mini.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="run=FOLDER, or STEM.key=value for STEM.yaml.")
    ] = None,
    skip: Annotated[
        list[str] | None, typer.Option(help="A recipe to leave out, such as 7_rerank.")
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Run a folder's numbered recipes in order; skip what is up to date, resume what is not."""
    stages.run_folder(folder, overrides or [], skip=skip or [], dry_run=dry_run)


@app.command()
def estimate(
    recipe: RecipePath,
    overrides: Overrides = None,
    gpus: Annotated[int, typer.Option(help="How many GPUs.")] = 8,
    memory: Annotated[float, typer.Option(help="Memory of one, in GB.")] = 80.0,
    tflops: Annotated[float, typer.Option(help="Its peak in half precision, TFLOP/s.")] = 312.0,
    utilisation: Annotated[float, typer.Option(help="Share of the peak that is reached.")] = 0.35,
) -> None:
    """Tokens, work, memory and time of a training step, before it runs."""
    from unime.train import estimate as estimates

    machine = estimates.Machine(gpus, memory, tflops, utilisation)
    typer.echo(estimates.estimate(recipe, overrides or [], machine))


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="An exported model; with --files any output.")],
    server: Annotated[
        str | None, typer.Option(help="A vLLM server of it, such as http://127.0.0.1:8000.")
    ] = None,
    files: Annotated[
        bool,
        typer.Option("--files", help="Only read every byte of every output below FOLDER."),
    ] = False,
    python: Annotated[
        str | None, typer.Option(help="The interpreter of another environment to load it in.")
    ] = None,
) -> None:
    """Compare an exported model's embeddings over every way of loading it; or check files."""
    if files:
        from unime.core.contents import verify_files

        typer.echo(verify_files(folder))
        return
    from unime.export.verify import pictures_report, verify_folder

    typer.echo(verify_folder(folder, server, python))
    if text := pictures_report(folder):
        typer.echo(text)


@app.command()
def push(
    folder: Annotated[Path, typer.Argument(help="An exported, verified model.")],
    repo: Annotated[str, typer.Argument(help="OWNER/NAME on the Hub.")],
    results: Annotated[
        Path | None, typer.Option(help="A run's results.json, for the model card.")
    ] = None,
    row: Annotated[
        str | None, typer.Option(help="Which row of it; the last unless said otherwise.")
    ] = None,
    private: Annotated[bool, typer.Option("--private")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would change.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Show how an export differs from the Hub, then upload it."""
    from unime.export.card import result_row, write_card
    from unime.export.push import push as upload

    if results is not None:
        exported = folder / "embedder" if (folder / "embedder").is_dir() else folder
        write_card(exported, result_row(results, row))
    upload(
        folder,
        repo,
        private=private,
        dry_run=dry_run,
        confirm=lambda sentence: yes or typer.confirm(sentence),
        echo=typer.echo,
    )


@app.command()
def search(  # noqa: PLR0913, PLR0917  # typer's options are arguments
    folder: Annotated[Path, typer.Argument(help="A folder with images and text files.")],
    query: Annotated[str, typer.Argument(help="What to look for.")] = "",
    image: Annotated[Path | None, typer.Option(help="A picture to search with.")] = None,
    model: Annotated[Path | None, typer.Option(help="An exported model.")] = None,
    index: Annotated[
        Path | None, typer.Option(help="Where the index lies; FOLDER/.unime-search by default.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many results.")] = 10,
    instruction: Annotated[str | None, typer.Option(help="What the query asks for.")] = None,
    serve: Annotated[bool, typer.Option("--serve", help="A local page with a search box.")] = False,
    port: Annotated[int, typer.Option(help="Of that page; 0 takes any.")] = 8765,
) -> None:
    """Search a folder of images and texts: index it once, answer at once."""
    from unime.search.index import open_search
    from unime.search.results_page import show

    if not serve and not query and image is None:
        raise DataError("nothing to search for: give a query, --image PICTURE, or --serve")
    if serve:
        from unime.search.server import check_installed

        check_installed()  # before hours of indexing
    found = open_search(folder, index, model)
    if serve:
        from unime.search.server import serve_forever

        serve_forever(found, port, top)
    else:
        show(found, query, image, top, instruction, typer.echo)


def main(application: Callable[[], object] = app) -> None:
    """Run a command; a user's mistake, a full disk or a missing extra is one sentence and exit code 2.

    UNIME_TRACEBACK=1 shows where it was raised. SIGTERM ends any command with exit code 143.
    """
    start_logging()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A name that is no UTF-8 must not end a command that has done its work.
            stream.reconfigure(errors="backslashreplace")
    signal.signal(signal.SIGTERM, _terminate)
    try:
        application()
    except Terminated:
        log("stopped by SIGTERM")
        # What was begun is closed. Python would free millions of objects first, for half a minute.
        logging.shutdown()
        os._exit(TERMINATED)
    except (UnimeError, OSError) as error:
        if os.environ.get("UNIME_TRACEBACK") == "1":
            raise
        typer.echo(f"error: {sentence_of(error)}", err=True)
        sys.exit(2)
    except ModuleNotFoundError as error:
        # `python -m eval` has no word that says so; `python -m judge` needs none, see EXTRAS.
        command = "eval" if application is evaluation else sys.argv[1] if sys.argv[1:] else ""
        sentence = extra_missing(error, command)
        if sentence is None or os.environ.get("UNIME_TRACEBACK") == "1":
            raise
        typer.echo(f"error: {sentence}", err=True)
        sys.exit(2)


def _terminate(number: int, frame: object) -> None:
    """End the command as an exception does: what was begun is closed properly."""
    del number, frame
    # Once: process groups and parents that pass it on send it twice.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Terminated
