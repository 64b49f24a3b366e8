"""The evaluation program: `unime eval run | check | list | compare | report`."""
