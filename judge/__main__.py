"""`python -m judge ...` from a checkout: the same as `unime judge ...`."""

from unime.cli import main
from unime.judge.commands import app

if __name__ == "__main__":
    main(app)
