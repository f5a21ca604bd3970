"""Has one process of a distributed model run out of a GPU's memory, when a test asks for it.

Python imports this itself in all processes that a server starts with this folder on PYTHONPATH.
"""

import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

PLACE = "wan_model.worker.placed_experts"
"""Where a process has its experts; ComfyUI's process knows that module by another name."""

ASKED = "WANDUET_TEST_SHORTAGE"
"""Variable with the path of a file: whose process removes it has no memory in its next pass."""


class Finder(MetaPathFinder):
    """Changes one module when it is imported."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Finds that module."""
        found = PathFinder.find_spec(name, path, target) if name == PLACE else None
        loader: Any = None if found is None else found.loader
        if loader is not None:
            execute = loader.exec_module

            def execute_and_change(module: ModuleType) -> None:
                execute(module)
                _change(module)

            loader.exec_module = execute_and_change
        return found


def _change(module: Any) -> None:
    run = module.PlacedExperts.run

    def run_or_fail(
        self: Any, expert: int, size: Any, ranks: int, forward: Any, runner: Any
    ) -> Any:
        try:
            Path(os.environ[ASKED]).unlink()
        except (FileNotFoundError, KeyError):
            return run(self, expert, size, ranks, forward, runner)
        return run(self, expert, size, ranks, forward, _fail)

    module.PlacedExperts.run = run_or_fail


def _fail(*_: Any) -> NoReturn:
    import torch

    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB, on purpose.")


sys.meta_path.insert(0, Finder())
