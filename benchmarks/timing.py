"""Seconds, peak memory and the GPU's clock while something is computed."""

import gc
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.lines import gpu_id
from wan_model.errors import BackendError

SAMPLE_MILLISECONDS = 250
SMI = (
    "nvidia-smi",
    "--query-gpu=clocks.sm,power.draw,temperature.gpu",
    "--format=csv,noheader,nounits",
    f"--loop-ms={SAMPLE_MILLISECONDS}",
)


@dataclass(frozen=True)
class Timing:
    """Repeated runs of one computation after a first one, which compiles and warms up."""

    first_seconds: float
    seconds: tuple[float, ...]
    peak_bytes: int | None
    """Most memory allocated beyond what was before; None on the CPU."""
    clock: dict[str, float]
    """Medians while it ran: sm_mhz, watts, celsius. Empty where they cannot be read."""

    def columns(self) -> dict[str, Any]:
        """Returns what is printed: median, spread, peak in GiB, clock."""
        peak = self.peak_bytes
        return {
            "first_seconds": round(self.first_seconds, 3),
            "seconds": round(statistics.median(self.seconds), 4),
            "fastest": round(min(self.seconds), 4),
            "slowest": round(max(self.seconds), 4),
            "repeats": len(self.seconds),
            "peak_gib": None if peak is None else round(peak / 2**30, 3),
            **self.clock,
        }


def device_called(name: str) -> torch.device:
    """Returns the device, with its number.

    Raises:
        BackendError: if there is none of this kind.
    """
    device = torch.device(name)
    if device.type != "cuda" or device.index is not None:
        return device
    if not torch.cuda.is_available():
        raise BackendError(
            "There is no GPU that torch can use. Got none, need one for measurements. Use "
            "--device cpu with the model 'toy' to try the script."
        )
    return torch.device("cuda", torch.cuda.current_device())


def release(device: torch.device) -> None:
    """Gives memory without an owner back, so that the next contestant finds an empty GPU."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


@contextmanager
def clock_samples() -> Iterator[Callable[[], dict[str, float]]]:
    """Reads the GPU's clock, power and temperature beside what runs in the block.

    Yields:
        A function that returns the medians; nothing before the block's end, or without nvidia-smi.
    """
    rows: list[list[float]] = []
    try:
        process = subprocess.Popen(
            (*SMI, "-i", gpu_id()), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
    except OSError:
        yield dict
        return
    with process:
        reader = threading.Thread(target=_read_rows, args=(process, rows), daemon=True)
        reader.start()
        try:
            yield lambda: _medians(rows)
        finally:
            process.terminate()
            reader.join()


def _read_rows(process: subprocess.Popen[str], rows: list[list[float]]) -> None:
    for text in process.stdout or ():
        try:
            rows.append([float(part) for part in text.split(",")])
        except ValueError:  # "[N/A]" on some GPUs
            continue


def _medians(rows: list[list[float]]) -> dict[str, float]:
    medians = [statistics.median(column) for column in zip(*rows, strict=True)]
    return dict(zip(("sm_mhz", "watts", "celsius"), medians, strict=False))


def elapsed(call: Callable[[], object], device: torch.device) -> float:
    """Returns the seconds of one call with all that it has the device do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    begin = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin
