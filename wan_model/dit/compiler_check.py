"""Whether PyTorch can compile kernels for a device, found out before anything waits for it."""

import importlib
import os
import shutil
import sys

import torch

from ..errors import BackendError

OLDEST_CUDA = (7, 0)
"""Compute capability that Triton's kernels need; source: `torch.utils._triton.has_triton`."""

COMPILED_DEVICES = ("cpu", "cuda", "xpu")
C_COMPILERS = ("gcc", "clang", "cc")
"""Those that Triton looks for, unless CC names one."""

WITHOUT = "or do not compile: results are the same, only later."


def check_compiler(device: torch.device) -> None:
    """Refuses a device for which nothing can be compiled here. Imports PyTorch's compiler.

    Raises:
        BackendError: names what is missing and how to get it.
    """
    if device.type not in COMPILED_DEVICES:
        raise BackendError(
            f"PyTorch does not compile for this device. Got {device.type}, need a CPU or a GPU of "
            f"Nvidia, AMD or Intel. Use one, {WITHOUT}"
        )
    if not torch._dynamo.eval_frame.is_dynamo_supported():
        python = ".".join(map(str, sys.version_info[:2]))
        raise BackendError(
            f"This PyTorch does not compile on this Python. Got PyTorch {torch.__version__} on "
            f"Python {python}, need a newer PyTorch or an older Python. Install one, {WITHOUT}"
        )
    if device.type == "cpu":
        _check_cpp_compiler()
        return
    if device.type == "cuda" and torch.version.hip is None:
        _check_capability(device)
    _check_triton()


def _check_capability(device: torch.device) -> None:
    found = torch.cuda.get_device_capability(device)
    if found < OLDEST_CUDA:
        raise BackendError(
            f"This GPU is too old for compiled kernels. Got {torch.cuda.get_device_name(device)} "
            f"with compute capability {found[0]}.{found[1]}, need 7.0 or newer (RTX 20 series). "
            f"Use such a GPU, {WITHOUT}"
        )


def _check_triton() -> None:
    """Triton writes the kernels, and needs a C compiler to start them; on Windows it brings one."""
    windows = sys.platform == "win32"
    try:
        importlib.import_module("triton")
    except ImportError as error:
        package = "triton-windows" if windows else "triton"
        raise BackendError(
            f"Compiled kernels need Triton. Got no working one ({error}), need the package "
            f"{package}. Run 'pip install {package}' with {sys.executable}, {WITHOUT}"
        ) from error
    if not windows and not os.environ.get("CC") and not any(map(shutil.which, C_COMPILERS)):
        raise BackendError(
            f"Compiled kernels need a C compiler. Got none of {', '.join(C_COMPILERS)} in PATH, "
            f"need one. Install gcc (on Debian and Ubuntu: apt install build-essential), {WITHOUT}"
        )


def _check_cpp_compiler() -> None:
    builder = importlib.import_module("torch._inductor.cpp_builder")
    try:
        builder.get_cpp_compiler()
    except RuntimeError as error:
        reason = (str(error) or type(error).__name__).split("\n")[0].rstrip(".")
        raise BackendError(
            f"Compiled code for a CPU needs a C++ compiler. Got none that works ({reason}), need "
            "g++, clang or Visual C++. Install one (on Debian and Ubuntu: apt install "
            f"build-essential; on Windows: Visual Studio's build tools), {WITHOUT}"
        ) from error
