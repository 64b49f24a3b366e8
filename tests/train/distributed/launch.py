"""Start a script or a module on two processes of this machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def torchrun(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run words after `torchrun` with two processes."""
    return subprocess.run(
        torchrun_command(*words),
        cwd=ROOT,
        env=two_process_environment(**environment),
        capture_output=True,
        text=True,
        check=False,
        timeout=540,
    )


def torchrun_command(*words: str) -> list[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    head = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--master_addr=127.0.0.1"]
    return [sys.executable, *head, f"--master_port={port}", *words]


def two_process_environment(**environment: str) -> dict[str, str]:
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": str(ROOT),
        **environment,
    }
