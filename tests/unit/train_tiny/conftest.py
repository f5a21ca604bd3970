"""What the tests here share."""

import pytest
import torch
from filelock import FileLock


@pytest.fixture(autouse=True)
def few_threads():
    """Tensors this small are slower on many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def few_clips(monkeypatch: pytest.MonkeyPatch):
    """As many at once as `trained` was trained on, which are kept beside it."""
    from tests.unit.train_tiny.micro import CLIPS_AT_ONCE
    from tools.train_tiny import clip_store

    monkeypatch.setattr(clip_store, "GROUP", CLIPS_AT_ONCE)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest):
    """A training folder in which every stage has run for a few steps. Read only.

    Pytest's processes share it: the first one that needs it trains, others wait for that.
    """
    from tests.unit.train_tiny.micro import micro_recipe, run
    from tools.train_tiny.files import TrainingFolder

    recipe, base = micro_recipe(), tmp_path_factory.getbasetemp()
    shared = base.parent if hasattr(request.config, "workerinput") else base
    folder = TrainingFolder(shared / "train_tiny")
    done = shared / "train_tiny_done"
    with FileLock(shared / "train_tiny.lock"):
        if not done.is_file():
            threads = torch.get_num_threads()
            torch.set_num_threads(1)
            for stage in recipe.stages:
                run(stage, folder, recipe)
            torch.set_num_threads(threads)
            done.touch()
    return folder
