"""The program `python -m evidence`, from the root of a checkout."""

from evidence.cli import app
from unime.cli import main

if __name__ == "__main__":
    main(app)
