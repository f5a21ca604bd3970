"""The import of `tools` without the repository on sys.path."""

import sys
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path

import pytest
import torch


def import_tools() -> None:
    """Makes `import tools.tiny_score` work, as it does for `python -m` in the repository."""
    if "tools" not in sys.modules:
        spec = ModuleSpec("tools", None, is_package=True)
        spec.submodule_search_locations = [str(Path(__file__).parents[3] / "tools")]
        sys.modules["tools"] = module_from_spec(spec)


import_tools()


@pytest.fixture(autouse=True)
def one_thread():
    """Tensors this small are slower on many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
