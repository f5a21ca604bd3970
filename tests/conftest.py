"""Fixtures of the whole suite; `wan_model` and `tools` without the repository on sys.path.

The pack's folder must never be importable as a whole: its `nodes` would hide ComfyUI's own.
"""

import importlib.util
import os
import sys
from collections.abc import Iterator
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from tests.toy.make_checkpoints import make_checkpoints

if TYPE_CHECKING:
    from tests.comfy.server import ComfyServer

REPOSITORY = Path(__file__).parents[1]
if not torch.cuda.is_available():
    # Read when Triton is imported, which comes later: then its kernels run on the CPU.
    os.environ["TRITON_INTERPRET"] = "1"

TOGETHER = {
    "browser": ("tests/browser/",),
    "card": (
        "tests/comfy/test_loras",
        "tests/comfy/test_memory_card",
        "tests/comfy/test_precision",
    ),
}
"""Beginnings of the files that share a browser with its pages, or a server of their own."""

HELPER_NODES = (
    "endless_nodes.py",
    "fault_nodes.py",
    "helper_nodes.py",
    "instrument_nodes.py",
    "memory_nodes.py",
    "patch_nodes.py",
    "preview_nodes.py",
    "relative_nodes.py",
    "timed_text_nodes.py",
)


def import_library() -> None:
    """Makes `import wan_model` work, and only that."""
    root = str(REPOSITORY)
    sys.path[:] = [path for path in sys.path if os.path.realpath(path or ".") != root]
    folder = REPOSITORY / "wan_model"
    spec = importlib.util.spec_from_file_location(
        "wan_model", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"wan_model is not a package. Got {folder}.")
    module = importlib.util.module_from_spec(spec)
    sys.modules["wan_model"] = module
    spec.loader.exec_module(module)


def import_folder(name: str) -> None:
    """Makes `import tools.tiny_score` work, as it does for `python -m` in the repository."""
    spec = ModuleSpec(name, None, is_package=True)
    spec.submodule_search_locations = [str(REPOSITORY / name)]
    sys.modules[name] = importlib.util.module_from_spec(spec)


import_library()
import_folder("tools")
import_folder("render_farm")


class PackRoot:
    """Makes pytest treat the repository as a plain folder although it holds an `__init__.py`.

    That file is the pack's entry point, which can be imported only inside ComfyUI.
    """

    @pytest.hookimpl
    def pytest_collect_directory(self, path: Path, parent: pytest.Collector) -> pytest.Dir | None:
        return pytest.Dir.from_parent(parent, path=path) if path == REPOSITORY else None


def pytest_configure(config: pytest.Config) -> None:
    # A conftest's own hooks do not reach folders above it; a plugin's do.
    config.pluginmanager.register(PackRoot())


def missing(what: str, required_by: str) -> None:
    """Skips the test for want of something, or fails it where that must be there."""
    if os.environ.get("CI") or os.environ.get(required_by):
        pytest.fail(what, pytrace=False)
    pytest.skip(what)


@cache
def cpu_multiplies_fp8() -> bool:
    """Whether `torch._scaled_mm` runs on a CPU, as it does since PyTorch 2.8."""
    codes = torch.ones(16, 16).to(torch.float8_e4m3fn)
    try:
        torch._scaled_mm(codes, codes.t(), torch.ones(()), torch.ones(()))
    except NotImplementedError:
        return False
    return True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item):
    """Skips tests of fp8 matmuls, which ask for nothing but a CPU, where that has none."""
    try:
        return (yield)
    except Exception as error:
        if "_scaled_mm" not in str(error) or cpu_multiplies_fp8():
            raise
        pytest.skip(f"{item.name}: torch {torch.__version__} multiplies no fp8 on a CPU.")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keeps in one process a file's tests, and those of files that share what is slow to start."""
    from xdist.scheduler import LoadFileScheduling

    class Together(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return next((name for name, start in TOGETHER.items() if file.startswith(start)), file)

    return Together(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture(scope="session")
def comfyui() -> Path:
    """Folder of the ComfyUI source tree."""
    path = os.environ.get("COMFYUI_PATH", "")
    if not path:
        missing("No ComfyUI. Set COMFYUI_PATH, or use dev.py test.", "WANDUET_REQUIRE_COMFY")
    return Path(path).resolve()


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    """For tests that compile: PyTorch counts the graphs of a function in the whole process."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture(scope="session")
def toy_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ComfyUI models folder filled with toy checkpoints. Read only."""
    models = tmp_path_factory.mktemp("toy") / "models"
    make_checkpoints(models)
    return models


@pytest.fixture(scope="session")
def comfy_server(
    comfyui: Path, toy_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> "Iterator[ComfyServer]":
    """The one server that most tests share: the pack, toy checkpoints, small latent previews."""
    # Its client needs a package that tests of the library alone do without.
    from tests.comfy.server import ComfyServer, prepare

    base = tmp_path_factory.mktemp("comfyui")
    prepare(base, toy_models, HELPER_NODES)
    arguments = ("--preview-method", "latent2rgb")
    with ComfyServer(comfyui, base, arguments=arguments) as server:
        yield server


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    """Shows the end of the server's log with a test that failed while using it."""
    report = yield
    server = getattr(item, "funcargs", {}).get("comfy_server")
    if report.failed and server is not None:
        report.sections.append(("ComfyUI log (end)", server.log()[-6000:]))
    return report
