"""Block swap against resident weights: time, memory on the device and on the host.

    python benchmarks/block_swap.py --folder /fast/disk      # about five minutes on an H100
    python benchmarks/block_swap.py --folder /fast/disk --only "832x480x81 8 GiB pair" 832x480x17
    python benchmarks/block_swap.py --folder /fast/disk --only 832x480x17 --in-memory

Writes one A14B expert with random fp8 weights, once, and prints one JSON line per case, as soon as
it is measured (report.py makes a table of them): seconds per forward pass and their ratio to
resident weights, the first pass (which fetches everything), planned and measured peak of device
memory, and host memory. Smaller cards are emulated by a tensor that takes the rest. "pair" passes
from one expert to another in the middle.
"""

import argparse
import gc
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.lines import emit
from benchmarks.loras import WITH_LORA, extras
from wan_model.attention import resolve
from wan_model.config import DiTConfig, Precision
from wan_model.dit import WanDiT
from wan_model.dit.activation_memory import activation_bytes
from wan_model.errors import WanError
from wan_model.loading import load_dit, open_checkpoint, unchanged_regions
from wan_model.offload import (
    CudaDevice,
    HostModel,
    Limits,
    Machine,
    OffloadEngine,
    PlanRequest,
    Work,
    make_plan,
    measure_copy,
    measure_read,
    sizes_of,
)
from wan_model.quant import Linear
from wan_model.shapes import latent_size

GIB = 2**30
A14B = DiTConfig(
    dim=5120, ffn_dim=13824, num_heads=40, num_layers=40, in_channels=16, out_channels=16
)
PRECISION = Precision(compute_dtype=torch.bfloat16)

RESERVED_BYTES = 400 << 20
"""Left free on an emulated card, as ComfyUI does on Linux. With 128 MiB memory ran out once in most
cases of a pair, since the allocator needs gaps."""

CASES = (
    ("832x480x81", ("streamed", "6 GiB pair")),
    ("832x480x17", ("streamed", "streamed pinned", "8 GiB pair", "24 GiB pair")),
    ("832x480x81", ("8 GiB pair", f"8 GiB pair{WITH_LORA}")),
    ("832x480x17", (f"8 GiB pair{WITH_LORA}",)),
    ("1280x720x81", ("8 GiB pair",)),
    ("832x480x81", ("24 GiB pair", "streamed pinned", "12 GiB")),
    ("832x480x17", ("6 GiB", "12 GiB")),
    ("1280x720x81", ("streamed",)),
)
"""In an order in which the first minutes tell most."""

REPEATS = {"832x480x17": 6, "832x480x81": 2, "1280x720x81": 1}
"""Passes that are timed, for a pair with either expert."""

WARM_UP = ("832x480x17", "832x480x81")
"""Sizes whose resident pass is too short to take for itself what a first one takes."""


@dataclass(frozen=True)
class Bench:
    """What all cases share."""

    resident: WanDiT
    streamed: WanDiT
    host: HostModel
    copy_rate: float
    read_rate: float


@dataclass(frozen=True)
class Video:
    """One size: its inputs, and what resident weights make of them."""

    size: str
    inputs: tuple[Tensor, Tensor, Tensor, None]
    activation_bytes: int
    seconds: float
    expected: Tensor


def random_state(config: DiTConfig, device: str = "cuda") -> dict[str, Tensor]:
    """Returns an expert's state dict on the host: matrices in scaled fp8, the rest in bf16.

    Names and marks are those of Comfy-Org's fp8_scaled files, which ComfyUI's loader knows too.
    """
    with torch.device("meta"):
        model = WanDiT(config, precision=PRECISION, attention=resolve("sdpa"))
    generator = torch.Generator(device).manual_seed(0)
    # Two elements: ComfyUI is to multiply these weights in 16 bit, as with the published files.
    state = {"scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}
    for name, parameter in model.named_parameters():
        value = torch.randn(parameter.shape, generator=generator, device=device)
        owner, leaf = model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]
        if "norm" in name and leaf == "weight":
            value = 1 + 0.1 * value
        else:
            value *= 0.3 if leaf == "modulation" else (parameter.shape[1:].numel() or 400) ** -0.5
        if isinstance(owner, Linear) and leaf == "weight":
            scale = value.abs().amax() / torch.finfo(torch.float8_e4m3fn).max
            state[f"{name.removesuffix('weight')}scale_weight"] = scale.cpu()
            state[name] = (value / scale).to(torch.float8_e4m3fn).cpu()
        else:
            state[name] = value.bfloat16().cpu()
    return state


def build(folder: Path, *, in_memory: bool, attention: str) -> Bench:
    """Makes the expert, on the device and on the host."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "high_noise_14B_random.safetensors"
    if not path.exists():
        save_file(random_state(A14B), path)
    streamed = load_dit(path, attention=attention)
    resident = load_dit(path, device="cuda", attention=attention)
    if in_memory:
        for tensor in (*streamed.parameters(), *streamed.buffers()):
            tensor.data = tensor.data.clone()
    regions = {} if in_memory else unchanged_regions(streamed, open_checkpoint(path))
    host = HostModel(streamed, streamed.blocks, regions)
    gc.collect()
    torch.cuda.empty_cache()
    return Bench(
        resident=resident,
        streamed=streamed,
        host=host,
        copy_rate=measure_copy(CudaDevice("cuda")),
        read_rate=measure_read(host.slabs[0]),
    )


def timed(steps: Sequence[Callable[[], Tensor]]) -> tuple[float, float, Tensor]:
    """Returns seconds of all steps, queued without a pause, those of queueing, and the last."""
    torch.cuda.synchronize()
    started = time.perf_counter()
    for step in steps:
        out = step()
    queued = time.perf_counter()
    torch.cuda.synchronize()
    return time.perf_counter() - started, queued - started, out


def measure_resident(bench: Bench, size: str) -> Video:
    """Runs a size with resident weights."""
    width, height, frames = (int(part) for part in size.split("x"))
    latent_shape = latent_size(width, height, frames, 8)
    shape = (1, 16, latent_shape.frames, latent_shape.height, latent_shape.width)
    generator = torch.Generator("cuda").manual_seed(1)
    latent = torch.randn(shape, generator=generator, device="cuda")
    text = torch.randn(1, 100, A14B.text_dim, generator=generator, device="cuda")
    inputs = (latent, torch.tensor([900.0], device="cuda"), text, None)
    if size in WARM_UP:
        bench.resident(*inputs)
    steps = [lambda: bench.resident(*inputs)] * REPEATS[size]
    seconds, _, out = timed(steps)
    need_bytes = activation_bytes(A14B, PRECISION, 1, *shape[2:])
    return Video(size, inputs, need_bytes, seconds / len(steps), out)


def private_gib() -> float:
    """Returns this process' memory that the system cannot take back, pinned memory included."""
    status = Path("/proc/self/status").read_text()
    lines = [line.split() for line in status.splitlines()]
    return sum(int(line[1]) for line in lines if line[0] in ("RssAnon:", "RssShmem:")) / 2**20


def request(bench: Bench, video: Video, case: str) -> PlanRequest:
    """Returns what the plan of a case follows from."""
    return PlanRequest(
        sizes=sizes_of([bench.host] * (2 if "pair" in case else 1)),
        machine=Machine(
            free_vram_bytes=torch.cuda.mem_get_info()[0] - RESERVED_BYTES,
            free_ram_bytes=64 * GIB,
            copy_rate=bench.copy_rate,
            read_rate=bench.read_rate,
        ),
        work=Work(
            activation_bytes=video.activation_bytes,
            block_seconds=video.seconds / len(bench.host.slabs),
        ),
        limits=Limits(
            blocks_to_swap=A14B.num_layers if "streamed" in case else None,
            pinned_ram_bytes=16 * GIB if "pinned" in case else None,
        ),
    )


@contextmanager
def card_of(case: str) -> Iterator[None]:
    """Takes the memory that a smaller card does not have."""
    torch.cuda.empty_cache()
    nbytes = 0
    if "GiB" in case:
        free, total = torch.cuda.mem_get_info()
        context = total - free - torch.cuda.memory_reserved()
        nbytes = free - (int(case.split()[0]) * GIB - context)
    ballast = [torch.empty(nbytes, dtype=torch.uint8, device="cuda")]
    try:
        yield
    finally:
        ballast.clear()
        # Whatever came next could settle in a part of it, and it could never be given back.
        torch.cuda.empty_cache()


def measure_case(bench: Bench, video: Video, case: str) -> dict[str, Any]:
    """Runs a size through the engine."""
    before_gib = private_gib()
    with_lora = WITH_LORA in case
    bench.host.carry(extras(bench.streamed) if with_lora else {})
    plan = make_plan(request(bench, video, case))
    engine = OffloadEngine([bench.host] * plan.request.sizes.experts, plan, CudaDevice("cuda"))

    def step(model: int = 0) -> Tensor:
        return engine.run(model, partial(bench.streamed.velocity, *video.inputs))

    def last_step_of_first_expert() -> Tensor:
        engine.prefetch(1)
        return step()

    steps: list[Callable[[], Tensor]] = [step] * REPEATS[video.size]
    if "pair" in case:
        before_last = [step] * (REPEATS[video.size] - 1)
        second = [lambda: step(1)] * REPEATS[video.size]
        steps = [*before_last, last_step_of_first_expert, *second]
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    try:
        first_seconds, _, _ = timed([step])
        seconds, queued_seconds, out = timed(steps)
        peaks = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
        return {
            "plan": str(plan),
            "final_plan": str(engine.plan) if engine.plan is not plan else "same",
            "seconds": round(seconds / len(steps), 4),
            "ratio": round(seconds / len(steps) / video.seconds, 4),
            "first_seconds": round(first_seconds, 2),
            "queued_seconds": round(queued_seconds / len(steps), 4),
            "copy_seconds": round(plan.copy_seconds, 4),
            "read_seconds": round(plan.read_seconds, 4),
            "planned_peak_gib": round(plan.peak_bytes / GIB, 3),
            "peak_gib": round((peaks[0] - before[0]) / GIB, 3),
            "reserved_gib": round((peaks[1] - before[1]) / GIB, 3),
            "pinned_gib": round(engine.pinned_bytes / GIB, 3),
            "private_ram_gib": round(private_gib() - before_gib, 3),
            **({} if with_lora else {"equal": torch.equal(out, video.expected)}),
        }
    finally:
        engine.unload()
        engine.release_pinned()


def outcome(bench: Bench, video: Video, case: str) -> dict[str, Any]:
    """Returns what a case measured, or why it did not run."""
    what = {"size": video.size, "case": case}
    try:
        with card_of(case):
            return what | measure_case(bench, video, case)
    except (RuntimeError, WanError) as error:
        sys.stderr.write(
            f"{traceback.format_exc()}\n{torch.cuda.memory_summary(abbreviated=True)}\n"
        )
        return what | {"failed": str(error)}


def wanted(size: str, case: str, only: Sequence[str] | None) -> bool:
    """Whether a case is among those asked for: by its size, its name or both."""
    return only is None or not {size, case, f"{size} {case}"}.isdisjoint(only)


@torch.inference_mode()
def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="for 13.3 GiB, which are kept")
    parser.add_argument("--in-memory", action="store_true", help="stream from RAM, not from files")
    parser.add_argument("--attention", default="sdpa")
    parser.add_argument(
        "--only", nargs="+", metavar="CASE", help='such as 832x480x17, "6 GiB", "832x480x17 6 GiB"'
    )
    options = parser.parse_args()
    bench = build(options.folder, in_memory=options.in_memory, attention=options.attention)
    about = {
        "attention": options.attention,
        "in_memory": options.in_memory,
        "copy_gb_s": round(bench.copy_rate / 1e9, 2),
        "read_gb_s": round(bench.read_rate / 1e9, 2),
    }
    videos: dict[str, Video] = {}
    for size, cases in CASES:
        for case in [c for c in cases if wanted(size, c, options.only)]:
            if size not in videos:
                video = videos[size] = measure_resident(bench, size)
                resident = {"size": size, "case": "resident", "seconds": round(video.seconds, 4)}
                emit("block_swap", resident | about)
            emit("block_swap", outcome(bench, videos[size], case) | about)


if __name__ == "__main__":
    main()
