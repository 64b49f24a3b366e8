"""The program `python -m judge ...`. Imports nothing heavy: each verb imports what it runs."""

from unime.cli import main
from unime.judge.commands import app

if __name__ == "__main__":
    main(app)
