"""unime: turn any vision-language model into a universal multimodal embedding model.

The command is `unime` (see `unime --help`); the stages are described in README.md.
"""

__version__ = "0.1.0"
