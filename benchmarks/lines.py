"""What the benchmarks print: one JSON line per measurement, with all that makes it repeatable.

    python benchmarks/forward.py a14b 832x480x81 >> benchmarks/results/forward.jsonl

A line holds what its benchmark measured, the name of its table, and the date, the run, our commit,
the command, the machine and the versions of what takes part. Only numbers of one run are divided
by each other. `report.py` makes tables of such lines.
"""

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

Line = dict[str, Any]

ABOUT_RUN = ("date", "run", "commit", "command", "machine", "versions")
"""Keys of every line that say how it came about."""

PACKAGES = ("triton", "flash-attn", "fa3-fwd", "sageattention", "comfy-kitchen", "diffusers")
"""Whose versions decide speed, where they are installed."""

SMI_FIELDS = ("driver_version", "power.limit", "clocks.max.sm")


class LineError(ValueError):
    """A results file that is not what `emit` writes."""


def emit(table: str, values: Mapping[str, Any]) -> None:
    """Prints one measurement to stdout.

    Args:
        table: name of the table in RESULTS.md that it belongs to, such as "forward".
        values: what was measured, and of what.
    """
    line = {
        "table": table,
        **values,
        "date": _now(),
        "run": _run(),
        "commit": _commit(),
        "command": shlex.join(["python", *_command()]),
        "machine": machine(),
        "versions": versions(),
    }
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def read_lines(path: Path) -> list[Line]:
    """Returns the measurements of a file in their order.

    Raises:
        LineError: for a line that `emit` did not write, with its number.
    """
    return parse_lines(path.read_text(encoding="utf-8").splitlines(), path.name)


def parse_lines(texts: Iterable[str], source: str) -> list[Line]:
    """Returns measurements from text; `source` names where it is from. As `read_lines`."""
    return [_parse(text, f"{source}, line {n}") for n, text in enumerate(texts, 1) if text.strip()]


def _parse(text: str, where: str) -> Line:
    try:
        line = json.loads(text)
    except json.JSONDecodeError as error:
        raise _broken(where, f"text that is not JSON ({error})") from error
    if not isinstance(line, dict):
        raise _broken(where, f"a {type(line).__name__}")
    if missing := [key for key in ("table", *ABOUT_RUN) if key not in line]:
        raise _broken(where, f"a line without {', '.join(missing)}")
    return line


@cache
def machine() -> Line:
    """Returns the GPU with its driver and limits, or the processor where there is none."""
    import torch  # here, so that reports are fast and need no torch

    if not torch.cuda.is_available():
        return {"name": platform.processor() or platform.machine(), "memory_gib": None}
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    found: Line = {
        "name": properties.name,
        "memory_gib": round(properties.total_memory / 2**30, 1),
    }
    return found | nvidia_smi(SMI_FIELDS)


@cache
def versions() -> Line:
    """Returns the versions of Python, torch with its CUDA, and the installed kernel packages."""
    import torch

    found = {"python": platform.python_version(), "torch": torch.__version__}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def nvidia_smi(fields: Sequence[str]) -> Line:
    """Returns what nvidia-smi says of torch's GPU; nothing where it cannot be asked.

    Args:
        fields: two or more names of its query.
    """
    query = f"--query-gpu={','.join(fields)}"
    answer = _answer("nvidia-smi", query, "--format=csv,noheader", "-i", gpu_id()).split(",")
    return dict(zip(fields, (part.strip() for part in answer), strict=True)) if answer[1:] else {}


def smi_of_all(field: str) -> list[str]:
    """Returns what nvidia-smi says of each GPU, without units; nothing where it cannot be asked."""
    query = f"--query-gpu={field}"
    return _answer("nvidia-smi", query, "--format=csv,noheader,nounits").splitlines()


def gpu_id() -> str:
    """Returns nvidia-smi's name of torch's GPU, whose number CUDA_VISIBLE_DEVICES may change."""
    import torch

    if not torch.cuda.is_available():
        return "0"
    return f"GPU-{torch.cuda.get_device_properties(torch.cuda.current_device()).uuid}"


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


@cache
def _run() -> str:
    """Returns a name of this process that no other has."""
    return f"{_now()} {os.getpid()}"


@cache
def _commit() -> str:
    """Returns the short hash, with a plus where files differ from it; nothing outside git."""
    git = ("git", "-C", str(Path(__file__).parent))
    commit = _answer(*git, "rev-parse", "--short", "HEAD")
    changed = _answer(*git, "status", "--porcelain", "--untracked-files=no")
    return f"{commit}+" if changed else commit


def _answer(*command: str) -> str:
    """Returns what a command prints; nothing if it is not there or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _command() -> list[str]:
    script = Path(sys.argv[0])
    return [f"{script.parent.name}/{script.name}", *sys.argv[1:]]


def _broken(where: str, got: str) -> LineError:
    return LineError(
        f"{where}, is no measurement. Got {got}, need what a benchmark prints. Remove it, or run "
        "the benchmark again."
    )
