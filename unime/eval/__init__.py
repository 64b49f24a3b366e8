"""The evaluation program: `python -m eval run | check | list | compare | report`."""
