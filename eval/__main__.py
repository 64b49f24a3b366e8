"""`python -m eval`, from the root of a checkout."""

from eval.cli import app
from unime.cli import main

if __name__ == "__main__":
    main(app)
