"""`python -m eval ...` from a checkout: the same as `unime eval ...`."""

from unime.cli import main
from unime.eval.commands import app

if __name__ == "__main__":
    main(app)
