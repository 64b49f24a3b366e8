"""The parts of `unime judge audit`: probes, findings, page."""
