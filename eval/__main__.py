"""`python -m eval`, from the root of a checkout."""

from unime.cli import main
from unime.eval.commands import app

if __name__ == "__main__":
    main(app)
