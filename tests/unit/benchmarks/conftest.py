"""Makes `import benchmarks.tables` work without the repository on sys.path."""

import importlib
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

REPOSITORY = Path(__file__).parents[3]


def import_benchmarks() -> None:
    spec = ModuleSpec("benchmarks", None, is_package=True)
    spec.submodule_search_locations = [str(REPOSITORY / "benchmarks")]
    sys.modules["benchmarks"] = importlib.util.module_from_spec(spec)


def import_script(name: str) -> ModuleType:
    """Imports a script in this process. Scripts put the repository on sys.path; it is taken off."""
    before = sys.path[:]
    try:
        return importlib.import_module(f"benchmarks.{name}")
    finally:
        sys.path[:] = before


import_benchmarks()
