"""What the first use of our Triton kernels costs: nothing compiled, compiled ahead, kept on disk.

    python benchmarks/first_use.py
    python benchmarks/first_use.py --device meta

Each case is a process of its own, so that nothing is in memory: one block's stages of A14B in fp8
and in bf16 and of TI2V-5B, and decoding and encoding of both VAEs, at a small size. Prints JSON
lines with the seconds of the first and of the second call, and how many kernels lie on disk then:
*cold* with an empty cache; *ahead* with one that a thread filled before, as loaders have it do,
with its seconds; *watched* the same while the main thread wakes up 2000 times a second, with its
longest pauses; *kept* with *cold*'s cache. What Triton costs is the first call of *cold*, *ahead*
or *watched* without that of *kept*; the latter also imports the compiler, which *ahead* has done.

On the meta device kernels are compiled for a Hopper GPU and counted; nothing is computed.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.lines import emit
from benchmarks.timing import device_called, elapsed
from wan_model.compile_ahead import CompiledAhead
from wan_model.config import Precision, VaeConfig
from wan_model.dit.block import Block
from wan_model.dit.stage_choice import FastestStages, compile_stages, compile_stages_ahead
from wan_model.dit.stage_trial import BlockKind, LayerKind, run_trial, trial_block
from wan_model.vae import FullVae, build_vae
from wan_model.vae.full import compile_kernels

DTYPE = torch.bfloat16
PRECISION = Precision(compute_dtype=DTYPE)
A14B = {"dim": 5120, "ffn_dim": 13824, "num_heads": 40}
B5 = {"dim": 3072, "ffn_dim": 14336, "num_heads": 24}
VAES = {
    "wan2.1": VaeConfig(variant="wan2.1", encoder_dim=96, decoder_dim=96, z_dim=16),
    "wan2.2": VaeConfig(variant="wan2.2", encoder_dim=160, decoder_dim=256, z_dim=48),
}
CASES = (
    *("A14B fp8", "A14B bf16", "5B bf16"),
    *(f"{name} {operation}" for name in VAES for operation in ("decode", "encode")),
)
MODES = ("cold", "ahead", "watched", "kept")


class Use(NamedTuple):
    """What is used for the first time."""

    run: Callable[[], object]
    compile_ahead: Callable[[], CompiledAhead]


def main() -> None:
    """Runs every case in every mode, or one of them as a child."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", help="cuda, or meta to count kernels")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--mode", choices=MODES, help="of a child")
    options = parser.parse_args()
    if options.mode is not None:
        measure(options.cases[0], options.mode, options.device)
        return
    modes = ("cold",) if options.device == "meta" else MODES
    with tempfile.TemporaryDirectory() as folder:
        for case in options.cases:
            for mode in modes:
                cache = Path(folder) / case / ("cold" if mode == "kept" else mode)
                command = [sys.executable, __file__, "--device", options.device]
                environment = {**os.environ, "TRITON_CACHE_DIR": str(cache)}
                environment.pop("TRITON_INTERPRET", None)
                subprocess.run(
                    [*command, "--cases", case, "--mode", mode], env=environment, check=True
                )


def measure(case: str, mode: str, device_name: str) -> None:
    """Prints the line of a case."""
    found: dict[str, Any] = {"case": case, "mode": mode}
    if device_name == "meta":
        found["compiling_seconds"] = count(case)
    else:
        device = device_called(device_name)
        with torch.no_grad(), torch.cuda.device(device):
            found |= first_and_second(use_of(case, device), mode, device)
    cache = Path(os.environ["TRITON_CACHE_DIR"])
    emit("first_use", {**found, "kernels": len(list(cache.rglob("*.cubin")))})


def first_and_second(use: Use, mode: str, device: torch.device) -> dict[str, Any]:
    """Returns the seconds of two calls, and of what was compiled before."""
    torch.ones(1, device=device).sum().item()  # the device itself is no part of a first use
    found: dict[str, Any] = {}
    if mode in ("ahead", "watched"):
        begin = time.perf_counter()
        ahead = use.compile_ahead()
        if mode == "watched":
            found["longest_pauses"] = [round(pause, 4) for pause in longest_pauses(ahead)[:5]]
        ahead.wait()
        found["ahead_seconds"] = round(time.perf_counter() - begin, 3)
    for name in ("first_seconds", "second_seconds"):
        found[name] = round(elapsed(use.run, device), 4)
    return found


def longest_pauses(ahead: CompiledAhead) -> list[float]:
    """Returns how long this thread was held up, longest first, while another one compiles."""
    pauses, last = [], time.perf_counter()
    while ahead.is_running:
        time.sleep(0.0005)
        now = time.perf_counter()
        pauses.append(now - last)
        last = now
    return sorted(pauses, reverse=True)


def use_of(case: str, device: torch.device) -> Use:
    """Makes what a case uses, with weights that are all alike."""
    name, what = case.split()
    if name not in VAES:
        return stages_use(trial_block(kind_of(name, what), PRECISION, device), device)
    config = VAES[name]
    with torch.device(device):
        vae = build_vae(config).to(DTYPE)
    for parameter in vae.parameters():
        parameter.fill_(0.01)
    pixels = 16 * 8 if name == "wan2.1" else 16 * 16
    latent, video = torch.zeros(1, config.z_dim, 2, 16, 16), torch.zeros(1, 3, 5, pixels, pixels)
    run = partial(vae.decode, latent) if what == "decode" else partial(vae.encode, video)
    return Use(run, partial(_vae_ahead, vae, device))


def _vae_ahead(vae: FullVae, device: torch.device) -> CompiledAhead:
    return vae.compile_ahead(device, nullcontext)


def kind_of(name: str, what: str) -> BlockKind:
    """Returns of which kind a model's blocks are."""
    takes = LayerKind(codes=what == "fp8", adapters=False)
    return BlockKind(**(A14B if name == "A14B" else B5), layers=(takes,) * 8)


def stages_use(block: Block, device: torch.device) -> Use:
    """Stages of a block without weights, found by their trial and run for a few tokens."""
    fastest = FastestStages(PRECISION)

    def run() -> None:
        stages = fastest.of(block, device)(block)
        for result in run_trial(stages, block, PRECISION, device):
            result.sum()

    def compile_ahead() -> CompiledAhead:
        compile_stages_ahead([(fastest, [block])], device, nullcontext)
        return fastest.ahead

    return Use(run, compile_ahead)


def count(case: str) -> float:
    """Compiles what a case needs for a Hopper GPU; returns the seconds."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver

    class Hopper:
        """What Triton asks a driver for."""

        def get_current_target(self) -> GPUTarget:
            return GPUTarget("cuda", 90, 32)

        def get_current_device(self) -> int:
            return 0

        def get_current_stream(self, _device: int) -> int:
            return 0

        def launcher_cls(self, _source: object, _metadata: object) -> None:
            """Nothing is launched."""

    hopper: Any = Hopper()
    driver.set_active(hopper)
    begin = time.perf_counter()
    name, what = case.split()
    if name in VAES:
        compile_kernels(VAES[name], DTYPE)
    else:
        compile_stages([kind_of(name, what)], PRECISION)
    return round(time.perf_counter() - begin, 2)


if __name__ == "__main__":
    main()
