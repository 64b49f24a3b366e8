"""The program `python -m judge ...`."""

import typer

from unime.cli import main, stage_command

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Score (query, candidate) pairs: does the candidate give what the query asks for?",
)


@app.callback()
def _program() -> None:
    # Without a callback typer would drop the verb of a program that has only one.
    pass


app.command("score", help="Score a mined table's pairs; what is scored is kept, whatever happens.")(
    stage_command("judge.score")
)

if __name__ == "__main__":
    main(app)
