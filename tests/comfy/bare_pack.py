"""Single modules of the pack without ComfyUI."""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

import pytest

from .server import REPOSITORY

PACKAGES = ("", ".nodes", ".nodes.prompt_check", ".nodes._comfy", ".nodes._comfy.text")
"""Those whose own code asks for ComfyUI, or for nothing."""


class BarePack:
    """The pack under a name, with as much of ComfyUI as a test gives it."""

    def __init__(self, patches: pytest.MonkeyPatch, name: str = "pack", **runtime: Any) -> None:
        """Makes its modules importable until the patches are undone.

        Args:
            patches: of the test.
            name: modules keep the host that they were imported with, so a test with a host of its
                own takes a name of its own.
            runtime: what there is of `nodes._comfy.host.runtime`.
        """
        self.name = name
        for package in PACKAGES:
            module = ModuleType(f"{name}{package}")
            module.__path__ = [str(REPOSITORY.joinpath(*package.split(".")))]
            patches.setitem(sys.modules, module.__name__, module)
        if runtime:
            host = ModuleType(f"{name}.nodes._comfy.host.runtime")
            vars(host).update(runtime)
            patches.setitem(sys.modules, host.__name__, host)

    def module(self, name: str) -> Any:
        """Returns a module, such as "nodes.settings"."""
        return import_module(f"{self.name}.{name}")
