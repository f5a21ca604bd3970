"""VAE decode and encode with random weights at full size: time, memory, error of 16 bit.

    python benchmarks/vae.py wan2.1 832x480x81 1280x720x81 --beside comfyui

Ours and the peers are processes of their own that take turns call by call, see turns.py, with the
same weights and inputs. Prints JSON lines: for each operation seconds and peak bytes above the
weights, of ours also the estimate that tiling is chosen from and the floor, see floors.py, with the
ceiling that it follows from; for decode also the PSNR of 16 bit against fp32 on a short video; then
ratios to the peers. Videos and latents begin and end as fp32 in host memory, ours and theirs. See
forward.py for how to set up the peers.
"""

import argparse
import math
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.floors import vae_floor
from benchmarks.lines import emit
from benchmarks.peers import PEERS, Peer, build_vae, fill
from benchmarks.timing import device_called, release
from benchmarks.turns import Answer, Contestant, processes, ratios, serve, take_turns, timed
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


def serve_ours(task: Task) -> tuple[Answer, Callable[[Answer], Answer]]:
    """Builds our VAE."""
    vae = random_vae(task.config, task.device).to(task.dtype)

    def decode(latent: Tensor, out: Tensor | None = None) -> Tensor:
        return vae.decode(latent, normalized=False, out=out)

    return {}, partial(answer, task, decode, vae.encode)


def serve_peer(task: Task, peer: Peer) -> tuple[Answer, Callable[[Answer], Answer]]:
    """Builds a peer's VAE."""
    built = build_vae(peer, task.config, task.dtype, task.device)
    assert built.encode is not None

    def decode(latent: Tensor, out: Tensor | None = None) -> Tensor:
        del out
        return built.run(latent.to(task.device))

    return {"label": built.label}, partial(answer, task, decode, built.encode)


@torch.inference_mode()
def answer(
    task: Task,
    decode: Callable[..., Tensor],
    encode: Callable[[Tensor], Tensor],
    request: Answer,
) -> Answer:
    """Decodes or encodes a video of the request's size, or keeps a short decoded one."""
    if "keep" in request:
        torch.save(decode(short_latent(task.config)).cpu(), request["keep"])
        return {"kept": request["keep"]}
    video = task.video(request["size"])
    if request["operation"] == "encode":
        return timed(partial(encode, video), task.device)
    latent = task.latent(request["size"])
    return timed(partial(decode, latent, out=torch.empty_like(video)), task.device)


def emit_turns(task: Task, contestants: list[Contestant], operation: Operation, size: str) -> None:
    """Prints what was measured of an operation at a size, and ours divided by the peers'."""
    ours, key = contestants[0], f"{operation} {size}"
    for one in contestants:
        line = task.about(one.name, operation, size)
        if key not in one.timings:
            emit("vae", {**line, "failed": one.failed})
            continue
        own = dict(one.own)
        if operation == "encode":
            own.pop("psnr_to_fp32_db", None)
        expected = task.expected(operation, size) if one is ours else {}
        emit("vae", {**line, **one.timings[key].columns(), **expected, **own})
    for one in contestants[1:]:
        if key in one.timings:
            line = {"vae": task.vae, "operation": operation, "peer": one.name, "size": size}
            emit("vae_ratio", line | ratios(ours.timings[key], one.timings[key]))


def play(options: argparse.Namespace, task: Task, folder: Path) -> None:
    """Measures ours and the peers in turns."""
    exact_vae = random_vae(task.config, task.device)
    exact = exact_vae.decode(short_latent(task.config), normalized=False).cpu()
    del exact_vae
    release(task.device)
    given = [options.variant, *options.sizes, "--dtype", options.dtype, "--device", options.device]
    names = [OURS, *options.beside]
    with processes([[__file__, *given, "--serve", name] for name in names]) as started:
        contestants = [Contestant(*pair) for pair in zip(names, started, strict=True)]
        for one in contestants:
            one.begin()
        for operation, size in (turns := list(product(get_args(Operation), options.sizes))):
            request = {"operation": operation, "size": size}
            take_turns(contestants, f"{operation} {size}", request, options.repeats)
        if contestants[0].failed:
            raise BackendError(contestants[0].failed)
        # Last, so that each first call is the first in its process.
        for one in contestants:
            if one.ask({"keep": str(folder / one.name)}):
                one.own["psnr_to_fp32_db"] = psnr(torch.load(folder / one.name), exact)
        for operation, size in turns:
            emit_turns(task, contestants, operation, size)


@torch.inference_mode()
def run(options: argparse.Namespace) -> None:
    """Serves as a contestant, or has all of them measured."""
    task = Task(
        vae=options.variant,
        config=CONFIGS[options.variant],
        dtype=getattr(torch, options.dtype),
        device=device_called(options.device),
    )
    if options.serve == OURS:
        serve(partial(serve_ours, task))
    elif options.serve:
        serve(partial(serve_peer, task, options.serve))
    else:
        with tempfile.TemporaryDirectory() as folder:
            play(options, task, Path(folder))


def main() -> None:
    """Command line."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("variant", choices=CONFIGS)
    parser.add_argument("sizes", nargs="+", help="WIDTHxHEIGHTxFRAMES")
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    parser.add_argument("--beside", choices=PEERS, nargs="+", default=[], help="peers to measure")
    parser.add_argument("--repeats", type=int, default=2, help="turns of each that are timed")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--serve", choices=(OURS, *PEERS), help=argparse.SUPPRESS)
    try:
        run(parser.parse_args())
    except (WanError, torch.OutOfMemoryError) as error:
        sys.exit(f"{Path(__file__).name}: {error}")


if __name__ == "__main__":
    main()
