"""Lets torchvision's PyPI build import beside a CPU build of torch; `make judge-env` installs it.

PyPI's torchvision for x86-64 is built for CUDA: beside torch's CPU build its operators stay
unregistered and `import torchvision` fails, although vLLM uses its transforms alone. This file is
copied into .venv-judge, where a .pth line loads it; it declares the two operators' schemas right
before torchvision is imported. The project itself never imports it.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
from typing import Any

SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


class DeclareOperators(importlib.abc.MetaPathFinder):
    """Finds nothing; notices the first import of torchvision."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        """Declare the operators when torchvision is asked for."""
        del path, target
        if fullname != "torchvision":
            return
        sys.meta_path.remove(self)
        torch = importlib.import_module("torch")
        # The library object must stay alive: its end would take the schemas back.
        self.library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            self.library.define(name + SCHEMA)
        KEPT.append(self)


KEPT: list[DeclareOperators] = []

sys.meta_path.insert(0, DeclareOperators())
