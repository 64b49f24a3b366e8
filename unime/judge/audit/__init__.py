"""The parts of `python -m judge audit`: probes, findings, page."""
