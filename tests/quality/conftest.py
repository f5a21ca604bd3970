"""The import of `tools` without the repository on sys.path."""

import sys
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path


def import_tools() -> None:
    """Makes `import tools.tiny_generate` work, as it does for `python -m` in the repository."""
    if "tools" not in sys.modules:
        spec = ModuleSpec("tools", None, is_package=True)
        spec.submodule_search_locations = [str(Path(__file__).parents[2] / "tools")]
        sys.modules["tools"] = module_from_spec(spec)


import_tools()
