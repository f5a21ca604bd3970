"""What a server takes of the GPU and of the machine's memory; smaller GPUs; the speed of a disk."""

import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmarks.lines import smi_of_all

GIB = 2**30
WATCH_SECONDS = 0.1
READ_BYTES = 8 << 20
READ_SAMPLE_BYTES = 4 * GIB
LANES = 4
OWN = ("Pss_Anon", "Pss_Shmem")
"""What is a process' own: memory without a file, and its part of what it shares."""


@dataclass
class Watch:
    """The most memory that the card and a process have taken since the last look, in bytes."""

    pid: int
    free_bytes: int
    """Of the card, before the process began."""
    peaks: dict[str, int] = field(default_factory=dict)
    ended: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def loop(self) -> None:
        """Looks until it is ended."""
        while not self.ended.wait(WATCH_SECONDS):
            self.look()

    def look(self) -> None:
        """Remembers what is more than before; nothing of a process that has ended."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        rows = [line.split() for line in status.splitlines() if line.startswith("Rss")]
        kib = {row[0]: int(row[1]) for row in rows}
        if not kib:
            return
        now = {
            **({"peak_gib": self.free_bytes - card_free_bytes()} if has_card() else {}),
            "private_ram_gib": (kib["RssAnon:"] + kib["RssShmem:"]) << 10,
            "file_ram_gib": kib["RssFile:"] << 10,
        }
        with self.lock:
            self.peaks = {key: max(value, self.peaks.get(key, 0)) for key, value in now.items()}

    def take(self) -> dict[str, float]:
        """Returns the peaks in GiB, and begins anew."""
        self.look()
        with self.lock:
            peaks, self.peaks = self.peaks, {}
        return {key: round(value / GIB, 2) for key, value in peaks.items()}


@contextmanager
def watching(watch: Watch) -> Iterator[Watch]:
    """Has a thread look all the time."""
    thread = threading.Thread(target=watch.loop)
    thread.start()
    try:
        yield watch
    finally:
        watch.ended.set()
        thread.join()


def own_bytes(process: int | str = "self") -> int:
    """Returns what a process has for itself: memory of no file, and its part of what is shared.

    Nothing of one that has ended. Linux only.
    """
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    sizes = {line.split(":")[0]: line.split()[1] for line in lines[1:]}
    return sum(int(sizes[name]) for name in OWN) * 1024


def taken_gib() -> list[float]:
    """Returns the memory of each GPU that any process has."""
    rows = smi_of_all("memory.used") if has_card() else []
    return [round(int(row) / 1024, 2) for row in rows]


def has_card() -> bool:
    """Whether there is a GPU."""
    return torch.cuda.is_available()


def card_free_bytes() -> int:
    """Returns the GPU memory that no process has, 0 without a GPU."""
    return torch.cuda.mem_get_info()[0] if has_card() else 0


@contextmanager
def card_of(gib: float) -> Iterator[None]:
    """Leaves so much of the card free; 0 leaves everything."""
    nbytes = max(0, card_free_bytes() - int(gib * GIB)) if gib else 0
    ballast = [
        torch.empty(min(GIB, nbytes - start), dtype=torch.uint8, device="cuda")
        for start in range(0, nbytes, GIB)
    ]
    try:
        yield
    finally:
        ballast.clear()
        if has_card():
            torch.cuda.empty_cache()


def drop_from_cache(files: Sequence[Path]) -> None:
    """Has the system forget what it knows of files."""
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def disk_rate(path: Path) -> float:
    """Returns bytes per second of a file that is read by several threads at once."""
    drop_from_cache([path])
    nbytes = min(path.stat().st_size, READ_SAMPLE_BYTES)

    def read(lane: int) -> None:
        target = bytearray(READ_BYTES)
        with path.open("rb", buffering=0) as file:
            for start in range(lane * READ_BYTES, nbytes, LANES * READ_BYTES):
                file.seek(start)
                file.readinto(target)

    started = time.perf_counter()
    with ThreadPoolExecutor(LANES) as pool:
        list(pool.map(read, range(LANES)))
    return nbytes / (time.perf_counter() - started)
