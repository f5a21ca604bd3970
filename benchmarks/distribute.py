"""*Wan 2.2 Distribute* through a real ComfyUI: all GPUs against one of them, and what faults leave.

    COMFYUI_PATH=... python benchmarks/distribute.py --folder /fast/disk
    COMFYUI_PATH=... python benchmarks/distribute.py --folder build/toy --toy   # on a CPU, seconds

Ray has to be importable. Writes an expert as large as A14B's with random fp8 weights, once, and
uses it twice: as the high-noise and as the low-noise expert. One server runs all prompts. First
the loader's MODELs on one GPU, without and with guidance; then, behind *Distribute*, each mode: a
prompt of two steps, for which its processes are started, and one that is measured. *auto* is to
share the video's tokens, and with guidance its two passes, in the same processes.

JSON lines, as soon as each is known. "distribute": seconds of a step (with guidance it has two
passes), by what that is faster than one GPU, the rms of the difference of both latents, seconds of
the first prompt and what it took beyond its steps, and memory: what the server and all that it has
started have for themselves, with the files once over what one GPU takes. "distribute_fault": after
a process is killed, the prompt is cancelled, or ComfyUI is killed, each in the midst of a step: how
the prompt ended and after how many seconds, the memory that each GPU has left taken, processes that
stayed, and whether the next prompt gives the same bits.
"""

import argparse
import gc
import os
import signal
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.multiprocessing.spawn import start_processes
from websocket import WebSocketException

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.block_swap import A14B, random_state
from benchmarks.lines import Line, emit
from benchmarks.server import SHIFT, TEXT_DIM, Server, server, toy
from benchmarks.watch import GIB, has_card, own_bytes, taken_gib
from tests.comfy.client import PromptRejected
from tests.comfy.graphs import Prompt, experts, moe_sampler, node, random_text, save
from tests.comfy.processes import RAY, WORKER, below, is_there, named
from tests.comfy.server import ServerError
from tests.comfy.stock import empty_latent

Links = tuple[tuple[str, int], tuple[str, int]]

ALONE: Links = (("experts", 0), ("experts", 1))
SHARED: Links = (("shared", 0), ("shared", 1))
MODES = ("auto", "ulysses", "cfg", "cfg+ulysses", "experts", "layers")
FAULTS = ("faults", "killed")
NOTHING = ("", 1.0)
"""In place of the mode that ran last and its guidance scale, when there is none to strike."""
DEFAULT = ("auto", "faults", "experts", "layers", "killed")
"""In an order in which the first minutes tell most. Faults happen to the mode before them."""

SCALES = {"auto": (1.0, 2.0), "cfg": (2.0,), "cfg+ulysses": (2.0,), "layers": (2.0,)}
"""Guidance scales of modes that share its two passes, that of faults first; of others it is 1."""

WARM, LONG = 2, 50
"""Steps of a prompt that is not measured, one by each expert, and of one that does not end."""

PROMPT_SECONDS = 100
FREE_SECONDS = 20.0
"""In which what has ended gives its memory back."""
PROBLEMS = (OSError, ServerError, PromptRejected, WebSocketException)


@dataclass
class Run:
    """What a prompt did."""

    status: str
    said: str
    """Its error, else what *Distribute* and the sampler told last."""
    seconds: float
    steps: list[float]
    """Seconds between two steps that were done."""
    latent: Tensor | None

    @property
    def step_seconds(self) -> float:
        """Median of them."""
        return statistics.median(self.steps)


@dataclass
class Bench:
    """One server, the prompts for it, and what one GPU made of them."""

    running: Server
    options: argparse.Namespace
    files: tuple[Path, Path]
    size: str
    before_gib: list[float]
    """Of each GPU, taken before there was a server."""
    alone: dict[float, Run] = field(default_factory=dict)
    """By guidance scale."""
    alone_own: float = 0.0
    """GiB that the server had for itself then."""
    seeds: int = 100
    last: tuple[str, float] = NOTHING
    """Mode and guidance scale that ran last; faults happen to them."""

    def about(self, mode: str, cfg: float) -> Line:
        """Returns what a line is of."""
        blocks = {} if self.options.toy else {"layers": self.options.blocks, "of_layers": 40}
        loading = {"precision": self.options.precision, "attention": self.options.attention}
        model = "toy" if self.options.toy else "a14b"
        gpus = {"gpus": self.options.gpus, "mode": mode, "cfg": cfg}
        return {"model": model, **blocks, "size": self.size, **loading, **gpus}

    def prompt(self, mode: str, seed: int, steps: int, cfg: float) -> Prompt:
        """Returns a workflow; mode "" is one GPU."""
        width, height, frames = (int(part) for part in self.size.split("x"))
        high, low = SHARED if mode else ALONE
        loading = {"precision": self.options.precision, "attention": self.options.attention}
        split = {"mode": mode, "gpus": self.options.gpus, "address": ""}
        pair = {"model_high": ALONE[0], "model_low": ALONE[1]}
        return {
            **random_text(TEXT_DIM),
            **empty_latent(width, height, frames),
            **experts((self.files[0].name, self.files[1].name), **loading),
            **({"shared": node("WanDuetDistribute", **split, **pair)} if mode else {}),
            **moe_sampler(
                model_high=high,
                model_low=low,
                positive=("positive", 0),
                negative=("negative", 0),
                latent_image=("latent", 0),
                cfg_high=cfg,
                cfg_low=cfg,
                seed=seed,
                steps=steps,
                shift=SHIFT,
            ),
            **save("out", latent=("sampler", 0)),
        }

    def run(
        self, mode: str, seed: int, steps: int, cfg: float, then: Callable[[], None] | None = None
    ) -> Run:
        """Runs a prompt; `then` is called once, after its first step."""
        done: list[float] = []

        def look(message: Any) -> None:
            if message.type == "progress" and message.data["value"] > len(done):
                done.append(time.perf_counter())
                if then is not None and len(done) == 1:
                    then()

        started = time.perf_counter()
        result = self.running.run(self.prompt(mode, seed, steps, cfg), PROMPT_SECONDS, look)
        seconds = time.perf_counter() - started
        error = (result.error or {}).get("exception_message", "")
        told = [text for name in ("shared", "sampler") for text in result.texts(name)[-1:]]
        latent = None
        if result.status == "success":
            latent = load_file(self.running.output / "out.safetensors")["samples"]
        between = [after - before for before, after in pairwise(done)]
        return Run(result.status, error or " | ".join(told), seconds, between, latent)

    def play(self, mode: str) -> None:
        """Does what one of the modes or words of the command line stands for.

        Raises:
            ServerError: if a mode fails, or there is nothing that a fault could happen to.
        """
        if mode not in FAULTS:
            self.last = NOTHING  # a fault would strike processes that a prompt does not use
            for cfg in scales(mode):
                self.measure(mode, cfg)
            self.last = (mode, scales(mode)[0])
            return
        if self.last == NOTHING:
            raise ServerError("No mode ran before it. Name one, such as auto.")
        if not self.workers():
            raise ServerError("No process computes.")
        (self.faults if mode == "faults" else self.kill_server)()

    def measured(self, mode: str, cfg: float) -> tuple[Run, Run]:
        """Returns a first prompt and a measured one.

        Raises:
            ServerError: if one failed.
        """
        self.seeds += 1
        runs = (
            self.run(mode, self.seeds, WARM, cfg),
            self.run(mode, 1, self.options.steps, cfg),
        )
        for run in runs:
            if run.status != "success":
                raise ServerError(run.said or run.status)
        return runs

    def measure(self, mode: str, cfg: float) -> None:
        """Prints the line of a mode."""
        first, second = self.measured(mode, cfg)
        one = self.alone.setdefault(cfg, second)
        processes = [self.running.pid, *below(self.running.pid)]
        own, workers = sum(map(own_bytes, processes)) / GIB, self.workers()
        self.alone_own = self.alone_own or own
        weights = sum({f.stat().st_ino: f.stat().st_size for f in self.files}.values()) / GIB
        beyond = first.seconds - WARM * second.step_seconds
        emit(
            "distribute",
            {
                **self.about(mode, cfg),
                "alone_seconds": round(one.step_seconds, 4),
                "step_seconds": round(second.step_seconds, 4),
                "speedup": round(one.step_seconds / second.step_seconds, 3),
                "rms_error": rms(second.latent, one.latent),
                "steps": [round(seconds, 4) for seconds in second.steps],
                "prompt_seconds": round(second.seconds, 2),
                "first_seconds": round(first.seconds, 2),
                "first_beyond_seconds": round(beyond, 2),
                "own_ram_gib": round(own, 2),
                "files_gib": round(weights, 2),
                "ram_of_one": round((weights + own) / (weights + self.alone_own), 3),
                "gpu_gib": self.taken(),
                "processes": len(workers),
                "shown": first.said,
            },
        )

    def workers(self) -> list[int]:
        """Returns the processes that compute."""
        return [*named(below(self.running.pid), WORKER)]

    def taken(self) -> list[float]:
        """Returns the GiB of each GPU that are taken since there is a server."""
        now = taken_gib()
        return [round(a - b, 2) for a, b in zip(now, self.before_gib, strict=True)]

    def fault(self, name: str, then: Callable[[], None], victims: Callable[[], list[int]]) -> None:
        """Prints how a prompt ends that something happens to, and how the next one does.

        Args:
            name: of the fault.
            then: does it.
            victims: returns processes that have to be gone when the prompt has ended.
        """
        mode, cfg = self.last
        moment: list[float] = []

        def strike() -> None:
            time.sleep(0.3 * self.alone[cfg].step_seconds)  # in the midst of the next step
            moment.append(time.perf_counter())
            then()

        self.seeds += 1
        ended = self.run(mode, self.seeds, LONG, cfg, strike)
        seconds = time.perf_counter() - moment[0] if moment else None
        left, waited = wait_for(victims)
        about = {**self.about(mode, cfg), "fault": name, "status": ended.status, "said": ended.said}
        about |= {"end_seconds": seconds and round(seconds, 2), "left": left}
        about |= {"left_seconds": round(waited, 2), "gpu_gib": self.taken()}
        following = self.run(mode, 1, self.options.steps, cfg)
        about |= {"next": following.status, "next_seconds": round(following.seconds, 2)}
        if following.latent is None:
            about["next_said"] = following.said
        else:
            about["rms_error"] = rms(following.latent, self.alone[cfg].latent)
        emit("distribute_fault", about)

    def faults(self) -> None:
        """Kills a process that computes, then cancels a prompt."""
        before = self.workers()
        self.fault("process killed", lambda: os.kill(before[-1], signal.SIGKILL), lambda: before)
        self.fault("cancelled", self.running.interrupt, list)

    def kill_server(self) -> None:
        """Prints what ComfyUI leaves when it is killed."""
        mode, cfg = self.last
        started = [self.running.pid, *named(below(self.running.pid), *RAY)]
        self.seeds += 1
        try:
            self.run(mode, self.seeds, LONG, cfg, lambda: os.kill(self.running.pid, signal.SIGKILL))
        except (OSError, WebSocketException) as error:
            status = type(error).__name__
        else:
            status = "went on"
        left, waited = wait_for(lambda: started[1:])
        about = {**self.about(mode, cfg), "fault": "ComfyUI killed", "status": status}
        about |= {"left": left, "left_seconds": round(waited, 2), "gpu_gib": self.taken()}
        emit("distribute_fault", about)


def wait_for(victims: Callable[[], list[int]]) -> tuple[int, float]:
    """Returns how many processes are left after a while, and the seconds until none was."""
    begin = time.monotonic()
    while left := [number for number in victims() if is_there(number)]:
        if time.monotonic() - begin > FREE_SECONDS:
            break
        time.sleep(0.05)
    waited = time.monotonic() - begin
    if has_card():
        time.sleep(1.0)  # the driver is behind the process
    return len(left), waited


def rms(x: Tensor | None, y: Tensor | None) -> float | None:
    """Returns the rms of the difference over that of y."""
    if x is None or y is None:
        return None
    return float(f"{float((x.double() - y.double()).norm() / y.double().norm()):.3g}")


def write_expert(_: int, path: str, blocks: int) -> None:
    """Writes an expert. In a process of its own, whose GPU memory ends with it."""
    state = random_state(replace(A14B, num_layers=blocks), "cuda" if has_card() else "cpu")
    partial = Path(f"{path}.part")
    save_file(state, partial)
    partial.rename(path)


def pair(options: argparse.Namespace) -> tuple[tuple[Path, Path], str]:
    """Returns both files and the size of the video."""
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.toy:
        made = toy(options.folder)
        return made.files, made.size
    name = f"noise_14B_{options.blocks}_blocks.safetensors"
    high, low = options.folder / f"high_{name}", options.folder / f"low_{name}"
    if not high.exists():
        start_processes(write_expert, (str(high), options.blocks), 1, start_method="spawn")
    if not low.exists():
        os.link(high, low)
    return (high, low), options.size


def play(bench: Bench, modes: Sequence[str]) -> None:
    """Measures everything. A mode that fails does not stop the others; a server that ends does."""
    for cfg in sorted({1.0, *(cfg for mode in modes for cfg in scales(mode))}):
        bench.measure("", cfg)
    for mode in modes:
        try:
            bench.play(mode)
        except PROBLEMS as error:
            traceback.print_exc()
            said = str(error).partition("\n")[0]
            if mode in FAULTS:
                about = {**bench.about(*bench.last), "fault": mode}
                emit("distribute_fault", {**about, "status": "failed", "said": said})
            else:
                emit("distribute", {**bench.about(mode, scales(mode)[0]), "failed": said})
            if not is_there(bench.running.pid):
                return
            bench.running.interrupt()  # it may still wait for what does not come


def scales(mode: str) -> tuple[float, ...]:
    """Returns the guidance scales at which a mode is measured."""
    return SCALES.get(mode, (1.0,))


def main() -> None:
    """Command line."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--folder", type=Path, required=True, help="for 13.3 GiB, which are kept")
    parser.add_argument("--size", default="832x480x81", help="WIDTHxHEIGHTxFRAMES")
    parser.add_argument("--blocks", type=int, default=40, help="of each expert")
    parser.add_argument("--gpus", type=int, default=2, help="processes without GPUs")
    parser.add_argument("--modes", nargs="+", choices=(*MODES, *FAULTS), default=DEFAULT)
    parser.add_argument("--steps", type=int, default=3, help="of the prompt that is measured")
    parser.add_argument("--precision", default="auto", help="input of our loader")
    parser.add_argument("--attention", default="auto", help="input of our loader")
    parser.add_argument("--toy", action="store_true", help="toy files")
    options = parser.parse_args()
    files, size = pair(options)
    gc.collect()
    before = taken_gib()
    with server(files) as running:
        bench = Bench(running, options, files, size, before)
        play(bench, options.modes)
        started = [*named(below(running.pid), *RAY)] if is_there(running.pid) else []
    if not started:
        return
    left, waited = wait_for(lambda: started)
    about = {"fault": "none: ComfyUI ended", "left": left, "left_seconds": round(waited, 2)}
    emit("distribute_fault", {**bench.about(*bench.last), **about, "gpu_gib": bench.taken()})


if __name__ == "__main__":
    main()
