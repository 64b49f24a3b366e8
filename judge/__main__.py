"""The program `python -m judge ...`. Imports nothing heavy: each verb imports what it runs."""

from judge.cli import app
from unime.cli import main

if __name__ == "__main__":
    main(app)
