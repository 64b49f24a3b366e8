"""The evaluation program: `python -m eval run | list | check`."""
