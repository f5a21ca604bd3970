"""Reads a pickled file in a process of its own, which can run out of memory without harm.

torch's own reader allows nothing but tensors and plain values there (`weights_only`), and maps the
file instead of reading it.
"""

import multiprocessing
import os
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from ..errors import CheckpointError, WanError
from ..host_memory import is_full
from ..loading.source_safetensors import DTYPES
from ..writing.writer import FileLayout, write_checkpoint
from .pickled_names import renamed, unwrapped


def rewrite(source: Path, target: Path, memory_bytes: int) -> None:
    """Writes a pickled file's tensors as safetensors.

    Args:
        source: a .pth, .pt, .ckpt or .bin file.
        target: to write; its folder is there.
        memory_bytes: what the other process may take beside the file, where the system keeps
            such limits.

    Raises:
        CheckpointError: if it cannot be read so; says why.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(there, source, target, memory_bytes))
    process.start()
    there.close()
    try:
        failure = here.recv()
    except EOFError:
        failure = "its reader was ended, perhaps for want of memory"
    finally:
        process.join()
    if failure is not None:
        target.unlink(missing_ok=True)
        raise CheckpointError(
            f"{source.name} cannot be read. Got {failure}; need a file of nothing but tensors, and "
            "enough memory and disk space. Download the file again, or allow more with --memory."
        )


def _work(answer: Connection, source: Path, target: Path, memory_bytes: int) -> None:
    """Runs in the other process: sends None, or what went wrong."""
    try:
        _limit_memory(source.stat().st_size + memory_bytes)
        tensors = renamed(unwrapped(_read(source), source.name))
        unknown = sorted({str(t.dtype) for t in tensors.values() if t.dtype not in DTYPES})
        if unknown:
            raise CheckpointError(f"tensors of {', '.join(unknown)}")
        layout = FileLayout.of(tensors.items())
        write_checkpoint(target, layout, tensors.items(), {"format": "pt"})
    except (WanError, OSError) as error:
        answer.send("no more memory" if is_full(error) else str(error))
    except Exception as error:  # noqa: BLE001 - whatever a stranger's file makes torch raise
        answer.send(_reason(error))
    else:
        answer.send(None)


def _reason(error: Exception) -> str:
    """Returns what went wrong; the end of a file that is cut off comes without a word."""
    if is_full(error):
        return "no more memory"
    if isinstance(error, EOFError):
        return "a file that is empty or cut off"
    text = "".join(str(error).strip().splitlines()[:1])
    return f"{type(error).__name__}: {text[:200]}"


def _read(source: Path) -> object:
    """Returns what is in a file; older ones, which cannot be mapped, take memory."""
    try:
        return torch.load(source, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError as error:
        if "mmap can only be used" not in str(error):
            raise
    return torch.load(source, map_location="cpu", weights_only=True)


def _limit_memory(more_bytes: int) -> None:
    """Has the system refuse this process more memory than this beside what it has."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (ImportError, OSError):
        return  # Windows, macOS: no limit that counts
    limit = pages * os.sysconf("SC_PAGE_SIZE") + more_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
