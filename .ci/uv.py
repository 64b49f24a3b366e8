"""Run uv as pip is configured: its indexes, wheel folders, constraints and certificate.

    python .ci/uv.py UV ARGUMENT...

uv reads none of pip's files. Where pip has no configuration, this is plain uv and plain PyPI.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys

# pip's option -> uv's variable. A certificate is one for all of them.
NAMES = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "constraint": "UV_CONSTRAINT",
    "cert": "SSL_CERT_FILE",
}


def main() -> None:
    """Replace this process by uv's."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    )
    environment = {}
    for line in listed.stdout.splitlines():
        key, _, value = line.partition("=")
        # `global.cert='…'` from a file, `:env:.cert='…'` from a variable, the latter last.
        name = NAMES.get(key.rpartition(".")[2].replace("_", "-"))
        if name is not None:
            words = str(ast.literal_eval(value)).split()
            environment[name] = ("," if name == "UV_FIND_LINKS" else " ").join(words)
    # As pip does: the best version of all indexes, not all versions of the first index.
    environment["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    # A user's own settings win.
    os.execvpe(sys.argv[1], sys.argv[1:], {**environment, **os.environ})  # noqa: S606


if __name__ == "__main__":
    main()
