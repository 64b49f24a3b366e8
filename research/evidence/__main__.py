"""The program `python -m research.evidence`, from the root of a checkout."""

from research.evidence.cli import app
from unime.cli import main

if __name__ == "__main__":
    main(app)
