"""The import of `tools` without the repository on sys.path, and what the tests here share."""

import sys
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).parents[3]


def import_tools() -> None:
    """Makes `import tools.train_tiny` work, as it does for `python -m` in the repository."""
    if "tools" not in sys.modules:
        spec = ModuleSpec("tools", None, is_package=True)
        spec.submodule_search_locations = [str(REPOSITORY / "tools")]
        sys.modules["tools"] = module_from_spec(spec)


import_tools()


@pytest.fixture(autouse=True)
def few_threads():
    """Tensors this small are slower on many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory):
    """A training folder in which every stage has run for a few steps. Read only."""
    from tests.unit.train_tiny.micro import micro_recipe, run
    from tools.train_tiny.files import TrainingFolder

    recipe = micro_recipe()
    folder = TrainingFolder(tmp_path_factory.mktemp("train_tiny"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for stage in recipe.stages:
        run(stage, folder, recipe)
    torch.set_num_threads(threads)
    return folder
