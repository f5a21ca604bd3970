"""One forward pass on several GPUs of a machine, with random weights at full size, against one.

    python benchmarks/parallel.py a14b 832x480x81 1280x720x81 --ranks 2 --formats bf16 fp8
    python benchmarks/parallel.py a14b 832x480x81:experts,cfg 1280x720x81:ulysses --layers 10
    python benchmarks/parallel.py wan2.1 832x480x81 --ranks 2

Starts a process per GPU. Each measures alone, all at the same time, then they do so together:
`ulysses` shares the tokens of one sample, which travel while others are computed; `at-once` lets
them travel in between; `cfg` shares the two samples of a guided step. Each line has the seconds of
the first one alone and of all, what these are faster by, the rms of the difference between both
results, the seconds of the slowest one alone, since the others wait for it, and the floor: the time
alone over the ranks, and the bytes that attention exchanges over the measured bandwidth of that
exchange. `experts` puts each of two experts on a GPU of its own: prompts of four steps go
through both, one behind the other, and the seconds are those between two that are done.

Of a VAE, whose name is given in the place of a model's, the decode shares the rows of frames.
`--layers N` measures N of the blocks. `--profile` adds where the time of one more pass goes, and
how much of the exchange nothing is computed beside (kernel_spans.py). `toy 128x128x5 --device cpu`
shows in seconds whether all is set up.

Prints JSON lines; `>> benchmarks/results/parallel.jsonl` keeps them.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import astuple, dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import start_processes

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.forward import CONFIGS, attention_of, label_of, random_dit
from benchmarks.kernel_spans import profiled
from benchmarks.lines import emit
from benchmarks.timing import elapsed, release
from benchmarks.vae import CONFIGS as VAE_CONFIGS
from benchmarks.vae import random_vae
from wan_model.attention import resolve
from wan_model.config import DiTConfig, Precision
from wan_model.dit import BlockFn, BlockInputs, BlockRunner, WanDiT, run_in_order
from wan_model.dit.attention_layers import AllTokens
from wan_model.dit.stage_choice import FastestStages, with_stages
from wan_model.parallel import (
    Degrees,
    Mesh,
    Team,
    decode_rows,
    exchanged_bytes,
    samples_parallel,
    sequence_parallel,
)
from wan_model.quant import AS_STORED
from wan_model.shapes import latent_size
from wan_model.vae.full import FullVae

VAES = {name: config for name, config in VAE_CONFIGS.items() if name != "toy"}
VAES["toy-vae"] = VAE_CONFIGS["toy"]
SPLITS = ("ulysses", "at-once", "cfg", "experts")
Pass = Callable[[], Tensor]


@dataclass(frozen=True)
class Alone:
    """What a rank did alone, while the others did so too."""

    seconds: float
    """Of this rank."""
    slowest: float
    """Of the rank that took longest."""
    result: Tensor


STEPS = 2
"""Of each expert in a prompt."""
WAIT = timedelta(seconds=90)
"""For another rank. A rank that has failed ends the others so."""


def bandwidth(config: DiTConfig, tokens: int, team: Team, device: torch.device) -> float:
    """Returns what a rank sends per second, to all others, while they exchange q of a block."""
    rows = -(-tokens // team.ranks)
    shape = rows * team.ranks, config.num_heads // team.ranks, config.head_dim
    x = torch.zeros(shape, dtype=torch.bfloat16, device=device)
    counts = [rows] * team.ranks
    seconds, _ = timed(lambda: team.exchange(x, counts, counts), 10, device)
    return x.nbytes * (team.ranks - 1) / team.ranks / seconds


def timed(call: Pass, repeats: int, device: torch.device) -> tuple[float, Tensor]:
    """Returns the median seconds of calls after a first one, and the result of that."""
    result = call()
    return statistics.median(elapsed(call, device) for _ in range(repeats)), result


def inputs_of(config: DiTConfig, stride: int, size: str, batch: int, device: torch.device) -> Any:
    """Returns random latent, timestep and text, the same on every rank."""
    generator = torch.Generator().manual_seed(1)
    width, height, frames = (int(part) for part in size.split("x"))
    latent = latent_size(width, height, frames, stride)
    shapes = (batch, config.out_channels, *astuple(latent)), (batch, 100, config.text_dim)
    x, text = (torch.randn(shape, generator=generator).to(device) for shape in shapes)
    return x, torch.full((batch,), 900.0, device=device), text


def at_once(runner: BlockRunner) -> BlockRunner:
    """Returns a runner whose blocks exchange all tokens before and after attention."""

    def call(block: BlockFn, x: Tensor, inputs: BlockInputs) -> Tensor:
        return block(x, replace(inputs, video_attention=AllTokens))

    def run(blocks: Iterable[BlockFn], x: Tensor, inputs: BlockInputs, /) -> Tensor:
        return runner((partial(call, block) for block in blocks), x, inputs)

    return run


def measure(
    options: argparse.Namespace,
    dit: WanDiT,
    size: str,
    split: str,
    mesh: Mesh,
    before: dict[tuple[str, int], Alone],
) -> tuple[dict[str, Any], Pass]:
    """Returns the numbers of one split at one size, and the pass that they are of.

    `before` remembers what ranks did alone, by size and samples.
    """
    config, stride, device = dit.config, CONFIGS[options.model][1], dit.head.modulation.device
    ranks = dist.get_world_size()
    batch = ranks if split == "cfg" else 1
    latent, timestep, text = inputs_of(config, stride, size, batch, device)
    stages = FastestStages(dit.precision)
    plain = with_stages(run_in_order, stages)
    shared = sequence_parallel(run_in_order, mesh.tokens)
    shared = with_stages(at_once(shared) if split == "at-once" else shared, stages)

    def predict(latent: Tensor, timestep: Tensor, text: Tensor, cond: Tensor | None) -> Tensor:
        return dit.velocity(latent, timestep, text, cond, shared)

    together = samples_parallel(predict, mesh.samples)
    if (size, batch) not in before:
        before[size, batch] = by_each_rank(
            lambda: dit.velocity(latent, timestep, text, None, plain), options.repeats, device
        )
    alone = before[size, batch]
    shared_pass = partial(together, latent, timestep, text, None)
    line = compare(alone, shared_pass, options.repeats, device)
    floor = alone.seconds / ranks
    if split != "cfg":
        tokens = latent[0, 0].numel() // 4
        rate = bandwidth(config, tokens, mesh.tokens, device)
        sent = exchanged_bytes(config, tokens, ranks)
        floor += sent / rate
        line |= {"sent_gb": round(sent / 1e9, 2), "gb_per_second": round(rate / 1e9, 1)}
    return {**line, "floor_seconds": round(floor, 4)}, shared_pass


def measure_experts(options: argparse.Namespace, dit: WanDiT, size: str) -> dict[str, Any]:
    """Returns the numbers of prompts whose experts are on GPUs of their own; both are `dit`."""
    device = dit.head.modulation.device
    latent, timestep, text = inputs_of(dit.config, CONFIGS[options.model][1], size, 1, device)
    runner = with_stages(run_in_order, FastestStages(dit.precision))

    def steps(x: Tensor) -> Tensor:
        for _ in range(STEPS):
            x = x - dit.velocity(x, timestep, text, None, runner) / (2 * STEPS)
        return x

    rank, host = dist.get_rank(), host_group()
    alone = by_each_rank(lambda: steps(steps(latent)), options.repeats, device)
    done: list[float] = []
    sent: list[Any] = []
    last = latent.cpu()
    for _ in range(options.repeats + 3):  # the first ones fill the line
        if rank == 0:
            x = steps(latent).cpu()
            sent.append((dist.isend(x, 1, host), x))
        elif rank == 1:
            dist.recv(last, 0, host)
            last = steps(last.to(device)).cpu()
            done.append(time.perf_counter())
    for work, _ in sent:
        work.wait()
    seconds = torch.tensor([(done[-1] - done[1]) / (len(done) - 2) if done else 0.0])
    dist.broadcast(last, 1, host)
    dist.broadcast(seconds, 1, host)
    line = line_of(alone, float(seconds), last.to(device))
    return {**line, "floor_seconds": round(alone.seconds / 2, 4)}


def host_group() -> dist.ProcessGroup:
    """Returns a group of all ranks that sends host memory."""
    group = dist.new_group(backend="gloo")
    assert isinstance(group, dist.ProcessGroup)
    return group


def by_each_rank(call: Pass, repeats: int, device: torch.device) -> Alone:
    """Returns what ranks do alone. They do it at once: each GPU has a speed of its own."""
    seconds, result = timed(call, repeats, device)
    slowest = torch.tensor(seconds, device=device)
    dist.all_reduce(slowest, dist.ReduceOp.MAX)
    return Alone(seconds, float(slowest), result)


def compare(alone: Alone, all_: Pass, repeats: int, device: torch.device) -> dict[str, Any]:
    """Returns the numbers of what all ranks do, beside those of one alone."""
    return line_of(alone, *timed(all_, repeats, device))


def line_of(alone: Alone, seconds: float, result: Tensor) -> dict[str, Any]:
    """Returns what is printed of both ways."""
    single = alone.result.float()
    error = float((result.float() - single).norm() / single.norm())
    return {
        "alone_seconds": round(alone.seconds, 4),
        "slowest_alone_seconds": round(alone.slowest, 4),
        "seconds": round(seconds, 4),
        "speedup": round(alone.seconds / seconds, 3),
        "rms_error": float(f"{error:.3g}"),
    }


def measure_vae(options: argparse.Namespace, name: str, size: str, device: torch.device) -> Any:
    """Returns the numbers of a decode whose rows are shared; the video stays on the GPUs."""
    vae = random_vae(VAES[name], device).to(torch.bfloat16)
    assert isinstance(vae, FullVae)
    width, height, frames = (int(part) for part in size.split("x"))
    found = latent_size(width, height, frames, vae.config.spatial_stride)
    shape = (1, vae.config.z_dim, *astuple(found))
    latent = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(device)
    out = torch.empty(1, 3, frames, height, width, dtype=torch.bfloat16, device=device)
    team = Mesh.of(Degrees(ulysses=dist.get_world_size())).tokens
    alone = by_each_rank(lambda: vae.decode(latent, out=out), options.repeats, device)
    shared = partial(decode_rows, vae, latent, team)
    line = compare(alone, shared, options.repeats, device)
    return {**line, "floor_seconds": round(alone.seconds / options.ranks, 4)}, shared


def rank_main(rank: int, options: argparse.Namespace, folder: str) -> None:
    """What each process does."""
    on_gpu = options.device == "cuda"
    device = torch.device("cuda", rank) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if on_gpu else "gloo",
        init_method=f"file://{folder}/meet",
        rank=rank,
        world_size=options.ranks,
        timeout=WAIT,
    )
    with torch.inference_mode():
        if options.model in VAES:
            for size, _ in options.sizes:
                line, again = measure_vae(options, options.model, size, device)
                about = {"vae": options.model, "size": size}
                report("parallel_vae", about, line, again if options.profile else None)
        else:
            measure_all(options, device)
    dist.destroy_process_group()


def report(table: str, about: dict[str, Any], line: dict[str, Any], again: Pass | None) -> None:
    """Prints numbers on the first rank, and those of a profile, if it is asked for."""
    if dist.get_rank() == 0:
        emit(table, {**about, **line})
    found = profiled(again) if again else {}
    if found and dist.get_rank() == 0:
        emit(f"{table}_profile", {**about, **found})


def measure_all(options: argparse.Namespace, device: torch.device) -> None:
    """Measures all formats, sizes and splits of a model."""
    full, _ = CONFIGS[options.model]
    config = replace(full, num_layers=min(options.layers or full.num_layers, full.num_layers))
    attention = attention_of(options.attention) if device.type == "cuda" else resolve("sdpa")
    ranks = options.ranks
    by_samples, by_tokens = Mesh.of(Degrees(cfg=ranks)), Mesh.of(Degrees(ulysses=ranks))
    tasks = [(size, split) for size, own in options.sizes for split in own or options.splits]
    for weights in options.formats:
        exact = weights == "fp32"
        precision = Precision() if exact else Precision(compute_dtype=torch.bfloat16)
        stored = AS_STORED if exact else weights
        dit, before = random_dit(config, precision, stored, attention, device), {}
        for size, split in tasks:
            again = None
            if split == "experts":
                line = measure_experts(options, dit, size)
            else:
                mesh = by_samples if split == "cfg" else by_tokens
                line, again = measure(options, dit, size, split, mesh, before)
            about = {"model": options.model, "format": weights, "size": size}
            about |= {"layers": config.num_layers, "of_layers": full.num_layers}
            about |= {"split": split, "ranks": ranks, "attention": label_of(attention)}
            report("parallel", about, line, again if options.profile else None)
        del dit, again
        release(device)


def size_and_splits(text: str) -> tuple[str, list[str]]:
    """Returns what WIDTHxHEIGHTxFRAMES:SPLIT,SPLIT names; no splits if it has none."""
    size, _, own = text.partition(":")
    splits = own.split(",") if own else []
    if not set(splits) <= set(SPLITS):
        raise argparse.ArgumentTypeError(f"got {own}, need some of {', '.join(SPLITS)}")
    return size, splits


def main() -> None:
    """Command line."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("model", choices=[*CONFIGS, *VAES])
    parser.add_argument(
        "sizes",
        nargs="+",
        type=size_and_splits,
        help="WIDTHxHEIGHTxFRAMES, with :SPLIT,SPLIT if not those of --splits",
    )
    parser.add_argument("--ranks", type=int, default=2, help="GPUs; they divide the heads")
    parser.add_argument(
        "--formats", nargs="+", default=["bf16"], help="of the blocks' weights; fp32 too"
    )
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=["ulysses", "cfg"])
    parser.add_argument("--layers", type=int, default=0, help="blocks to keep; 0: all")
    parser.add_argument("--attention", default="auto")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--profile", action="store_true", help="add where the time goes")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        start_processes(rank_main, (options, folder), options.ranks, start_method="spawn")


if __name__ == "__main__":
    main()
