"""A whole prompt through a real ComfyUI with block swap: seconds, card memory, process RAM.

    COMFYUI_PATH=... python benchmarks/server.py --folder /fast/disk      # not run at this size yet
    COMFYUI_PATH=... python benchmarks/server.py --folder build/toy --toy # tries the script, on CPU

Two experts with random fp8 weights (13.3 GiB each, written to the folder once), 4 steps (2 + 2),
cfg 1, euler. Smaller cards are emulated by memory that this process holds. Every card gets a server
of its own, which runs three prompts: the first with the files dropped from the system's cache, a
second like it, and one of twice the steps, by which it is known what a step takes. Prints one JSON
line per prompt. "beyond_s" are the seconds beyond its steps, "anon_gib" the process' memory that is
not backed by files (pinned memory included).
"""

import argparse
import gc
import json
import os
import shutil
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from websocket import WebSocketException

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.comfy.graphs import Prompt, experts, memory, moe_sampler, random_text, save
from tests.comfy.server import REPOSITORY, ComfyServer, ServerError, install_pack
from tests.comfy.stock import empty_latent

GIB = 2**30
Line = dict[str, Any]

STEPS = 4
PROMPTS = {"first, cold": STEPS, "second": STEPS, "twice the steps": 2 * STEPS}
SHIFT = 5.0
"""With it, half of the steps belong to either expert, be they 4 or 8."""

READ_BYTES = 8 << 20
READ_SAMPLE_BYTES = 4 * GIB
LANES = 4
WATCH_SECONDS = 0.1
PROMPT_SECONDS = 200
LOG_CHARACTERS = 8000

NAMES = ("high_noise_14B_random.safetensors", "low_noise_14B_random.safetensors")
TOYS = ("toy_t2v_high_noise.safetensors", "toy_t2v_low_noise.safetensors")


@dataclass(frozen=True)
class Workload:
    """What is sampled."""

    files: tuple[Path, Path]
    width: int
    height: int
    frames: int
    text_dim: int

    def prompt(self, seed: int, steps: int, wishes: dict[str, Any]) -> Prompt:
        """Returns the workflow."""
        names = (self.files[0].name, self.files[1].name)
        return {
            **experts(names, precision="auto", attention="auto", memory=("memory", 0)),
            **memory(**wishes),
            **random_text(self.text_dim),
            **empty_latent(self.width, self.height, self.frames),
            **moe_sampler(
                positive=("positive", 0),
                negative=("negative", 0),
                latent_image=("latent", 0),
                seed=seed,
                steps=steps,
                shift=SHIFT,
            ),
            **save("out", latent=("sampler", 0)),
        }


class Server(ComfyServer):
    """ComfyUI on the device that computes."""

    @property
    def pid(self) -> int:
        """Of the server's process."""
        assert self._process is not None
        return self._process.pid

    def _command(self) -> list[str]:
        command = super()._command()
        return [part for part in command if part != "--cpu"] if has_card() else command


@dataclass
class Watch:
    """The most memory that the card and a process have taken since the last look, in bytes."""

    pid: int
    free_bytes: int
    """Of the card, before the process began."""
    peaks: dict[str, int] = field(default_factory=dict)
    ended: threading.Event = field(default_factory=threading.Event)

    def loop(self) -> None:
        """Looks until it is ended."""
        while not self.ended.wait(WATCH_SECONDS):
            self.look()

    def look(self) -> None:
        """Remembers what is more than before."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        sizes = {line.split()[0]: line.split()[1] for line in status.splitlines() if "Rss" in line}
        now = {
            "vram": self.free_bytes - card_free_bytes(),
            "anon": (int(sizes["RssAnon:"]) + int(sizes["RssShmem:"])) << 10,
            "file": int(sizes["RssFile:"]) << 10,
        }
        self.peaks = {key: max(value, self.peaks.get(key, 0)) for key, value in now.items()}

    def take(self) -> dict[str, float]:
        """Returns the peaks in GiB, and begins anew."""
        self.look()
        peaks, self.peaks = self.peaks, {}
        return {f"{key}_gib": round(value / GIB, 2) for key, value in peaks.items()}


def has_card() -> bool:
    """Whether there is a GPU."""
    return torch.cuda.is_available()


def card_free_bytes() -> int:
    """Returns the GPU memory that no process has, 0 without a GPU."""
    return torch.cuda.mem_get_info()[0] if has_card() else 0


def a14b(folder: Path, size: str) -> Workload:
    """Writes two experts, unless they are there from an earlier run."""
    from block_swap import A14B, random_state

    width, height, frames = (int(part) for part in size.split("x"))
    first, second = (folder / name for name in NAMES)
    if not first.exists():
        save_file(random_state(A14B), first)
    if not second.exists():
        shutil.copyfile(first, second)
    gc.collect()
    torch.cuda.empty_cache()
    return Workload((first, second), width, height, frames, text_dim=4096)


def toy(folder: Path) -> Workload:
    """Writes toy checkpoints."""
    from tests.toy.make_checkpoints import make_checkpoints

    make_checkpoints(folder / "toy")
    models = folder / "toy" / "diffusion_models"
    return Workload((models / TOYS[0], models / TOYS[1]), 64, 48, 5, text_dim=64)


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


@contextmanager
def server(workload: Workload) -> Iterator[Server]:
    """Runs a ComfyUI that has the pack and the experts."""
    with tempfile.TemporaryDirectory() as name:
        base, frontend = Path(name), Path(name, "frontend")
        models = base / "models" / "diffusion_models"
        models.mkdir(parents=True)
        for file in workload.files:
            (models / file.name).symlink_to(file.resolve())
        install_pack(base / "custom_nodes")
        shutil.copy2(REPOSITORY / "tests" / "comfy" / "helper_nodes.py", base / "custom_nodes")
        # ComfyUI insists on a graph editor.
        frontend.mkdir()
        (frontend / "index.html").write_text("<html></html>")
        arguments = ("--front-end-root", str(frontend), "--disable-metadata")
        comfyui = Path(os.environ["COMFYUI_PATH"]).resolve()
        with Server(comfyui, base, arguments=arguments) as running:
            assert isinstance(running, Server)
            try:
                yield running
            finally:
                sys.stderr.write(running.log()[-LOG_CHARACTERS:])


def measure(workload: Workload, card_gib: float, wishes: dict[str, Any]) -> Iterator[Line]:
    """Runs the three prompts on one card; yields what is known of each, the steps' last."""
    seconds = []
    with card_of(card_gib):
        free_bytes = card_free_bytes()
        with server(workload) as running, watching(Watch(running.pid, free_bytes)) as watch:
            yield {"card_gib": card_gib, "prompt": "none yet", **watch.take()}
            drop_from_cache(workload.files)
            for number, (name, steps) in enumerate(PROMPTS.items()):
                started = time.perf_counter()
                result = running.run(workload.prompt(number, steps, wishes), PROMPT_SECONDS)
                seconds.append(time.perf_counter() - started)
                line = {"card_gib": card_gib, "prompt": name, "status": result.status}
                line |= {"seconds": round(seconds[-1], 2), **watch.take()}
                yield line | {"shown": result.texts("sampler")[-1:], "error": result.error}
    yield {"card_gib": card_gib, **beyond(seconds)}


def beyond(seconds: Sequence[float]) -> dict[str, float]:
    """Returns what a step takes, and what the two short prompts took beyond their steps."""
    first, second, longer = seconds
    step = (longer - second) / STEPS
    return {
        "step_s": round(step, 3),
        "first_beyond_s": round(first - STEPS * step, 2),
        "second_beyond_s": round(second - STEPS * step, 2),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="for 26.6 GiB, which are kept")
    parser.add_argument("--size", default="832x480x81", help="WIDTHxHEIGHTxFRAMES")
    parser.add_argument("--cards", nargs="*", type=float, default=[24, 8], help="GiB; 0: as it is")
    parser.add_argument("--wishes", type=json.loads, default={}, help="inputs of 'Wan memory'")
    parser.add_argument("--toy", action="store_true", help="toy files, on one card as it is")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    workload = toy(options.folder) if options.toy else a14b(options.folder, options.size)
    rate, nbytes = disk_rate(workload.files[0]), sum(f.stat().st_size for f in workload.files)
    disk = {"disk_gb_s": round(rate / 1e9, 2), "disk_s": round(nbytes / rate, 2)}
    print(json.dumps(disk), flush=True)
    for card_gib in [0.0] if options.toy else options.cards:
        try:
            for line in measure(workload, card_gib, options.wishes):
                print(json.dumps(line), flush=True)
        except (OSError, ServerError, WebSocketException):
            traceback.print_exc()


if __name__ == "__main__":
    main()
