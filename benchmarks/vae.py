"""VAE decode and encode with random weights at full size: time, memory, error of 16 bit.

    python benchmarks/vae.py wan2.1 832x480x81 1280x720x81 --beside comfyui

Prints JSON lines: for each operation of ours seconds, peak bytes above the weights, the estimate
that tiling is chosen from and the floor, see floors.py, with the ceiling that it follows from; for
decode also the PSNR of bf16 against fp32 on a short video; then the same of the peers, which have
the same weights and inputs, and ratios to them. Videos and latents begin and end as fp32 in host
memory, ours and theirs. See forward.py for how to set up the peers and for what --rounds and the
clock in each line are good for.
"""

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.floors import vae_floor
from benchmarks.lines import emit
from benchmarks.peers import PEERS, Peer, build_vae, fill
from benchmarks.timing import Timing, device_called, measure, release
from wan_model.config import VaeConfig
from wan_model.errors import BackendError, WanError
from wan_model.shapes import latent_size
from wan_model.vae import WanVae, estimate_peak_bytes
from wan_model.vae import build_vae as build_ours
from wan_model.vae.peak_memory import Operation

OURS = "wan-duet"
CONFIGS = {
    "wan2.1": VaeConfig(variant="wan2.1", encoder_dim=96, decoder_dim=96, z_dim=16),
    "wan2.2": VaeConfig(variant="wan2.2", encoder_dim=160, decoder_dim=256, z_dim=48),
    "toy": VaeConfig(variant="wan2.1", encoder_dim=8, decoder_dim=8, z_dim=16),
}
"""Sizes; the toy is there to try this script."""


@dataclass(frozen=True)
class Task:
    """What ours and the peers are to do."""

    vae: str
    config: VaeConfig
    dtype: torch.dtype
    device: torch.device
    sizes: tuple[str, ...]
    repeats: int
    timings: dict[tuple[str, str, str], Timing] = field(default_factory=dict)
    """By contestant, operation and size; grows with every turn."""

    def pixels(self, size: str) -> tuple[int, int, int]:
        """Returns frames, height and width."""
        width, height, frames = (int(part) for part in size.split("x"))
        return frames, height, width

    def latent(self, size: str) -> Tensor:
        """Returns a random latent for a video of `size`, in host memory, the same each time."""
        frames, height, width = self.pixels(size)
        found = latent_size(width, height, frames, self.config.spatial_stride)
        shape = (1, self.config.z_dim, found.frames, found.height, found.width)
        return torch.randn(shape, generator=torch.Generator().manual_seed(1))

    def video(self, size: str) -> Tensor:
        """Returns a random video of `size` in [-1, 1], in host memory, the same each time."""
        shape = (1, 3, *self.pixels(size))
        return torch.rand(shape, generator=torch.Generator().manual_seed(3)).mul_(2).sub_(1)

    def expected(self, operation: Operation, size: str) -> dict[str, float]:
        """Returns our memory estimate and our floor."""
        pixels = self.pixels(size)
        estimate = estimate_peak_bytes(self.config, operation, *pixels[1:], self.dtype)
        floor = vae_floor(self.config, operation, pixels, self.dtype, self.device)
        return {"estimate_gib": round(estimate / 2**30, 3), **floor}

    def about(self, who: str, operation: str, size: str) -> dict[str, str]:
        """Returns what is printed in every line."""
        dtype = str(self.dtype).removeprefix("torch.")
        about = {"vae": self.vae, "operation": operation, "size": size, "dtype": dtype}
        return {"contestant": who, **about}

    def timed(
        self, who: str, operation: str, size: str, call: Callable[[], Tensor]
    ) -> dict[str, Any]:
        """Measures and returns the columns of all turns so far."""
        timing = measure(call, self.repeats, self.device)
        before = self.timings.get((who, operation, size))
        timing = before.merged(timing) if before else timing
        self.timings[who, operation, size] = timing
        return {**self.about(who, operation, size), **timing.columns()}


def random_vae(config: VaeConfig, device: torch.device) -> WanVae:
    """Returns an fp32 VAE with weights that keep activations near unit size."""
    with torch.device("meta"):
        vae = build_ours(config)
    vae = vae.to_empty(device=device)
    fill(vae)
    return vae


def psnr(got: Tensor, exact: Tensor) -> float | None:
    """Returns the PSNR in dB, relative to the greatest absolute value; None without an error."""
    bound = got.abs().max().item()
    exact = exact.clamp(-bound, bound)  # as diffusers does; no difference to others
    mse = (got.float() - exact).square().mean() / exact.abs().max() ** 2
    return round(-10 * math.log10(mse.item()), 1) if mse else None


def short_latent(config: VaeConfig) -> Tensor:
    """Returns the latent that errors are measured on."""
    return torch.randn(1, config.z_dim, 3, 32, 48, generator=torch.Generator().manual_seed(2))


def our_turn(task: Task, exact: Tensor) -> None:
    """Measures our decode and encode at all sizes; `exact` is the short video in fp32."""
    vae = random_vae(task.config, task.device).to(task.dtype)
    decoded = vae.decode(short_latent(task.config), normalized=False)
    for size in task.sizes:
        latent, video = task.latent(size), task.video(size)
        decode = partial(vae.decode, latent, normalized=False, out=torch.empty_like(video))
        line = task.timed(OURS, "decode", size, decode) | task.expected("decode", size)
        emit("vae", {**line, "psnr_to_fp32_db": psnr(decoded, exact)})
        line = task.timed(OURS, "encode", size, partial(vae.encode, video))
        emit("vae", line | task.expected("encode", size))


def peer_turn(task: Task, peer: Peer, exact: Tensor) -> bool:
    """Measures a peer at all sizes, and returns whether it could run."""
    try:
        built = build_vae(peer, task.config, task.dtype, task.device)
        decoded = built.run(short_latent(task.config).to(task.device))
        for size in task.sizes:
            latent = task.latent(size).to(task.device)
            line = task.timed(peer, "decode", size, partial(built.run, latent))
            about = {"label": built.label, "psnr_to_fp32_db": psnr(decoded, exact)}
            emit("vae", {**line, **about})
            if built.encode is not None:
                line = task.timed(peer, "encode", size, partial(built.encode, task.video(size)))
                emit("vae", {**line, "label": built.label})
    except (BackendError, RuntimeError) as error:
        reason = "out of memory" if isinstance(error, torch.OutOfMemoryError) else str(error)
        sys.stderr.write(f"{peer}: {reason}\n")
        for size in task.sizes:
            if (peer, "decode", size) not in task.timings:
                emit("vae", {**task.about(peer, "decode", size), "failed": reason})
        return False
    return True


def emit_ratios(task: Task) -> None:
    """Prints ours divided by each peer, per size."""
    for (peer, operation, size), timing in task.timings.items():
        if peer == OURS:
            continue
        mine = task.timings[OURS, operation, size].columns()
        theirs = timing.columns()
        line = {"vae": task.vae, "operation": operation, "peer": peer, "size": size}
        line["ratio"] = round(mine["seconds"] / theirs["seconds"], 3)
        if theirs["peak_gib"]:
            line["peak_ratio"] = round(mine["peak_gib"] / theirs["peak_gib"], 3)
        emit("vae_ratio", line)


@torch.inference_mode()
def run(options: argparse.Namespace) -> None:
    """Measures ours and the peers in turns."""
    task = Task(
        vae=options.variant,
        config=CONFIGS[options.variant],
        dtype=getattr(torch, options.dtype),
        device=device_called(options.device),
        sizes=tuple(options.sizes),
        repeats=options.repeats,
    )
    vae = random_vae(task.config, task.device)
    exact = vae.decode(short_latent(task.config), normalized=False)
    del vae
    peers = list(options.beside)
    for _ in range(options.rounds):
        our_turn(task, exact)
        release(task.device)
        for peer in list(peers):
            if not peer_turn(task, peer, exact):
                peers.remove(peer)
            release(task.device)
    emit_ratios(task)


def main() -> None:
    """Command line."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("variant", choices=CONFIGS)
    parser.add_argument("sizes", nargs="+", help="WIDTHxHEIGHTxFRAMES")
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    parser.add_argument("--beside", choices=PEERS, nargs="+", default=[], help="peers to measure")
    parser.add_argument("--repeats", type=int, default=2, help="timed calls of a turn")
    parser.add_argument("--rounds", type=int, default=1, help="turns of each")
    parser.add_argument("--device", default="cuda")
    try:
        run(parser.parse_args())
    except (WanError, torch.OutOfMemoryError) as error:
        sys.exit(f"{Path(__file__).name}: {error}")


if __name__ == "__main__":
    main()
