"""Speed and memory beside peers: `python -m benchmarks.NAME`, from the checkout; see README.md."""
