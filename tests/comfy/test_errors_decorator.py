"""The one place where the library's errors become the editor's; all others pass untouched."""

import errno
import importlib
from typing import Any

import pytest
import torch


@pytest.fixture
def report(pack: str) -> Any:
    return importlib.import_module(f"{pack}.nodes._report")


@pytest.fixture
def errors(pack: str) -> Any:
    return importlib.import_module(f"{pack}.wan_model.errors")


def test_library_errors_keep_their_message_and_cause(report: Any, errors: Any):
    original = errors.PairingError("Wrong pair. Got a, need b. Choose b.")

    @report.reports_errors
    def execute() -> None:
        raise original

    with pytest.raises(report.WanDuetError) as seen:
        execute()
    assert str(seen.value) == str(original)
    assert seen.value.__cause__ is original
    assert isinstance(seen.value, ValueError)


def test_limits_of_memory_are_said_to_be_inputs_of_a_node(report: Any, errors: Any):
    @report.reports_errors
    def execute(*limits: str) -> None:
        raise errors.MemoryLimitError("Too large.", limits=limits)

    with pytest.raises(
        report.WanDuetError, match=r"^Too large\. .*'Wan 2.2 VRAM & Block Swap'.*-1"
    ):
        execute("blocks_to_swap")
    with pytest.raises(report.WanDuetError, match=r"^Too large\.$"):
        execute()


def test_missing_inputs_are_named(report: Any):
    class Node:
        @classmethod
        @report.reports_errors
        def execute(
            cls, model: str, vae: str, precision: str, speed: str = "auto", **more: str
        ) -> str:
            return f"{model} {vae} {precision} {speed} {more}"

    assert Node.execute(model="a", vae="b", precision="c") == "a b c auto {}"
    with pytest.raises(report.WanDuetError, match=r"nothing for model, vae and precision, need"):
        Node.execute(speed="fast")  # pyright: ignore[reportCallIssue]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory"),
        RuntimeError("unable to mmap 9 bytes from file <a>: Cannot allocate memory (12)"),
        RuntimeError("Couldn't map view of shared file <a>, error code: <1455>"),
        OSError("The paging file is too small for this operation to complete. (os error 1455)"),
        OSError("Cannot allocate memory (os error 12)"),
        OSError(errno.ENOMEM, "a text in another language"),
    ],
)
def test_a_full_memory_is_said_so_wherever_it_shows(report: Any, error: Exception):
    @report.reports_errors
    def execute() -> None:
        raise error

    with pytest.raises(report.WanDuetError, match=r"^The computer's memory is full\. Got"):
        execute()


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_a_want_of_file_handles_is_said_too(report: Any, number: int):
    @report.reports_errors
    def execute() -> None:
        raise OSError(number, "a text in another language", "a.safetensors")

    with pytest.raises(report.WanDuetError, match=r"^ComfyUI can open no more files .*ulimit -n"):
        execute()


def test_a_want_of_threads_is_said_too(report: Any):
    """It may be the limit of processes or of memory."""

    @report.reports_errors
    def execute() -> None:
        raise RuntimeError("can't start new thread")

    with pytest.raises(
        report.WanDuetError, match=r"^ComfyUI can start no more threads .*ulimit -u"
    ):
        execute()


class Interrupted(BaseException):
    """As ComfyUI's InterruptProcessingException may be."""


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("Tried to allocate memory"),
        RuntimeError("a shape"),
        FileNotFoundError(errno.ENOENT, "No such file", "not enough memory.png"),
        Interrupted(),
        KeyError("x"),
        ValueError("y"),
    ],
)
def test_other_errors_pass(report: Any, error: BaseException):
    @report.reports_errors
    def execute() -> None:
        raise error

    with pytest.raises(type(error)) as seen:
        execute()
    assert seen.value is error


def test_results_and_names_are_kept(report: Any):
    @report.reports_errors
    def execute(a: int, b: int = 2) -> int:
        """Adds."""
        return a + b

    assert execute(1, b=3) == 4
    assert execute.__name__ == "execute"
    assert execute.__doc__ == "Adds."
