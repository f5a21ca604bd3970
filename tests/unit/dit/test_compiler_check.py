"""What keeps PyTorch from compiling is said beforehand, with what to do about it."""

import os
import shutil
import subprocess
import sys
from types import ModuleType

import pytest
import torch
import torch._inductor.cpp_builder  # before a false Triton is in its place

from wan_model.dit.compiler_check import check_compiler
from wan_model.errors import BackendError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
PACKAGES = [("linux", "triton"), ("win32", "triton-windows")]


@pytest.fixture
def card(monkeypatch):
    """An Nvidia card with everything that is needed."""
    monkeypatch.setattr("torch.version.hip", None)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda _: (7, 0))
    monkeypatch.setattr("torch.cuda.get_device_name", lambda _: "GTX 1080")
    monkeypatch.setitem(sys.modules, "triton", ModuleType("triton"))
    monkeypatch.setattr("shutil.which", lambda name: name if name == "cc" else None)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    return monkeypatch


def refused(device: torch.device) -> str:
    with pytest.raises(BackendError) as caught:
        check_compiler(device)
    message = str(caught.value)
    assert "Got " in message
    assert "need " in message
    assert "remove the node" in message
    return message


@pytest.mark.usefixtures("card")
def test_a_card_with_everything_is_fine():
    check_compiler(CUDA)


def test_devices_without_a_compiler():
    assert "Got mps, need a CPU or a GPU" in refused(torch.device("mps"))


def test_pythons_that_this_pytorch_does_not_know(monkeypatch):
    monkeypatch.setattr("torch._dynamo.eval_frame.is_dynamo_supported", lambda: False)
    assert f"Got PyTorch {torch.__version__} on Python 3." in refused(CPU)


def test_old_cards(card):
    card.setattr("torch.cuda.get_device_capability", lambda _: (6, 1))
    assert "Got GTX 1080 with compute capability 6.1, need 7.0" in refused(CUDA)
    card.setattr("torch.version.hip", "6.4")
    check_compiler(CUDA)


@pytest.mark.parametrize(("platform", "package"), PACKAGES)
def test_no_triton(card, platform, package):
    card.setitem(sys.modules, "triton", None)
    card.setattr(sys, "platform", platform)
    assert f"Run 'pip install {package}' with" in refused(CUDA)


def test_no_c_compiler(card):
    card.setattr("shutil.which", lambda _: None)
    assert "Got none of gcc, clang, cc in PATH" in refused(CUDA)
    card.setenv("CC", "tcc")
    check_compiler(CUDA)
    card.delenv("CC")
    card.setattr(sys, "platform", "win32")
    check_compiler(CUDA)


def test_no_cpp_compiler_for_a_cpu(monkeypatch):
    def search():
        raise RuntimeError("No working C++ compiler found in config.cpp.cxx: (None, 'g++')\nmore")

    monkeypatch.setattr("torch._inductor.cpp_builder.get_cpp_compiler", search)
    assert "Got none that works (No working C++ compiler found" in refused(CPU)


@pytest.mark.skipif(shutil.which("g++") is None, reason="No g++ in PATH.")
def test_a_cpu_with_a_cpp_compiler_is_fine():
    check_compiler(CPU)


def test_the_compiler_is_not_imported_with_the_library():
    code = (
        "import importlib.util, sys\n"
        "spec = importlib.util.spec_from_file_location('wan_model', sys.argv[1] + '/__init__.py',"
        " submodule_search_locations=[sys.argv[1]])\n"
        "module = sys.modules['wan_model'] = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "from wan_model.dit import compiled_stages, compiler_check\n"
        "compiled_stages.CompiledStages()\n"
        "assert 'torch._dynamo' not in sys.modules\n"
    )
    (library,) = sys.modules["wan_model"].__path__
    subprocess.run([sys.executable, "-c", code, library], check=True, env=dict(os.environ))
