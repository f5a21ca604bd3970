"""Makes `import benchmarks.tables` work without the repository on sys.path."""

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

REPOSITORY = Path(__file__).parents[3]


def import_benchmarks() -> None:
    spec = ModuleSpec("benchmarks", None, is_package=True)
    spec.submodule_search_locations = [str(REPOSITORY / "benchmarks")]
    sys.modules["benchmarks"] = importlib.util.module_from_spec(spec)


import_benchmarks()
