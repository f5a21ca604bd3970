"""What the tests here share."""

import pytest
import torch


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
