"""Block swap against resident weights: time, memory on the device and on the host.

    python benchmarks/block_swap.py --folder /fast/disk      # about four minutes on an H100
    python benchmarks/block_swap.py --in-memory --only 832x480x17

Builds one A14B expert with random fp8 weights, in a file or in RAM, and prints one JSON line per
case: seconds per forward pass and their ratio to resident weights, the first pass (which fetches
everything), planned and measured peak of device memory, and host memory. Smaller cards are
emulated by a tensor that takes the rest. "pair" runs two steps with either of two experts.
"""

import argparse
import copy
import gc
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from forward import A14B, random_dit, random_inputs
from safetensors.torch import save_file
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from wan_model.config import Precision
from wan_model.dit import WanDiT
from wan_model.dit.memory import activation_bytes
from wan_model.errors import MemoryLimitError
from wan_model.loading import load_dit
from wan_model.loading.checkpoint import open_checkpoint
from wan_model.loading.formats import TORCH_DTYPES
from wan_model.offload import (
    CudaDevice,
    FileRegion,
    HostModel,
    Machine,
    ModelSizes,
    OffloadEngine,
    PlanRequest,
    Wishes,
    Work,
    make_plan,
    measure_copy,
    measure_read,
)
from wan_model.quant import Linear, ScaledFormat

GIB = 2**30
PRECISION = Precision(compute_dtype=torch.bfloat16)

ROUNDING_BYTES = 128 << 20
"""Left free on an emulated card, for what the allocator rounds up."""

CASES = {
    "832x480x17": ("streamed", "6 GiB", "8 GiB", "12 GiB", "24 GiB"),
    "832x480x81": ("streamed", "6 GiB", "8 GiB", "12 GiB", "24 GiB", "8 GiB pair", "24 GiB pair"),
    "1280x720x81": ("streamed", "8 GiB"),
}
REPEATS = {"832x480x17": 6, "832x480x81": 2, "1280x720x81": 1}


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


def random_expert() -> WanDiT:
    """Returns an expert on the GPU, fp8 with scales outside of the blocks, too."""
    model = random_dit(A14B, PRECISION, "fp8")
    for layer in model.modules():
        if isinstance(layer, Linear) and layer.weight_scale is None:
            scale = layer.weight.abs().amax() / 448
            layer.format, layer.weight_scale = ScaledFormat(), scale
            weight = (layer.weight / scale).to(torch.float8_e4m3fn)
            layer.weight = torch.nn.Parameter(weight, requires_grad=False)
    return model


def build(folder: Path | None) -> Bench:
    """Makes the expert, on the device and on the host."""
    resident, regions = random_expert(), {}
    if folder is None:
        streamed = copy.deepcopy(resident).to("cpu")
    else:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "wan22_a14b_random_fp8.safetensors"
        if not path.exists():
            save_file({name: t.cpu() for name, t in resident.state_dict().items()}, path)
        streamed = load_dit(path)
        resident = load_dit(path, device="cuda")
        regions = {
            name: FileRegion(entry.file, entry.start, entry.bytes, TORCH_DTYPES[entry.dtype])
            for name, entry in open_checkpoint(path).tensors.items()
            if entry.dtype in TORCH_DTYPES
        }
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


def timed(steps: Sequence[Callable[[], Tensor]]) -> tuple[float, Tensor]:
    """Returns the seconds of all steps on the device, queued without a pause, and the last."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for step in steps:
        out = step()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000, out


def measure_resident(bench: Bench, size: str) -> Video:
    """Runs a size with resident weights."""
    width, height, frames = (int(part) for part in size.split("x"))
    (latent, timestep, text), shape = random_inputs(A14B, 8, width, height, frames)
    inputs = (latent, timestep, text, None)
    bench.resident(*inputs)
    steps = [lambda: bench.resident(*inputs)] * REPEATS[size]
    seconds, out = timed(steps)
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
        sizes=ModelSizes(
            blocks=len(bench.host.slabs),
            block_bytes=bench.host.slab_bytes,
            outside_bytes=bench.host.outside.layout.nbytes,
            experts=2 if case.endswith("pair") else 1,
        ),
        machine=Machine(
            free_vram_bytes=torch.cuda.mem_get_info()[0] - ROUNDING_BYTES,
            free_ram_bytes=64 * GIB,
            copy_rate=bench.copy_rate,
            read_rate=bench.read_rate,
        ),
        work=Work(
            activation_bytes=video.activation_bytes,
            block_seconds=video.seconds / len(bench.host.slabs),
        ),
        wishes=Wishes(blocks_to_swap=A14B.num_layers if case == "streamed" else None),
    )


def measure_case(bench: Bench, video: Video, case: str) -> dict[str, Any]:
    """Runs a size through the engine."""
    torch.cuda.empty_cache()
    ballast_bytes = 0
    if "GiB" in case:
        free, total = torch.cuda.mem_get_info()
        context = total - free - torch.cuda.memory_reserved()
        ballast_bytes = free - (int(case.split()[0]) * GIB - context)
    ballast = torch.empty(ballast_bytes, dtype=torch.uint8, device="cuda")
    before_gib = private_gib()
    try:
        plan = make_plan(request(bench, video, case))
    except MemoryLimitError as error:
        return {"size": video.size, "case": case, "plan": str(error)}
    engine = OffloadEngine([bench.host] * plan.request.sizes.experts, plan, CudaDevice("cuda"))

    def step(model: int = 0) -> Tensor:
        return engine.run(model, partial(bench.streamed.velocity, *video.inputs))

    def last_step_of_first_expert() -> Tensor:
        engine.prefetch(1)
        return step()

    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    started = time.perf_counter()
    step()
    torch.cuda.synchronize()
    first_seconds = time.perf_counter() - started
    steps: list[Callable[[], Tensor]] = [step] * REPEATS[video.size]
    if case.endswith("pair"):
        steps = [step, last_step_of_first_expert, lambda: step(1), lambda: step(1)]
    seconds, out = timed(steps)
    peaks = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    result = {
        "size": video.size,
        "case": case,
        "plan": str(plan),
        "final_plan": str(engine.plan) if engine.plan is not plan else "same",
        "seconds": round(seconds / len(steps), 4),
        "ratio": round(seconds / len(steps) / video.seconds, 4),
        "first_seconds": round(first_seconds, 2),
        "planned_peak_gib": round(plan.peak_bytes / GIB, 3),
        "peak_gib": round((peaks[0] - before[0]) / GIB, 3),
        "reserved_gib": round((peaks[1] - before[1]) / GIB, 3),
        "pinned_gib": round(engine.pinned_bytes / GIB, 3),
        "private_ram_gib": round(private_gib() - before_gib, 3),
        "equal": torch.equal(out, video.expected),
    }
    engine.unload()
    engine.release_pinned()
    del ballast
    return result


@torch.inference_mode()
def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--folder", type=Path, help="for a file of 13.3 GiB, which is kept")
    place.add_argument("--in-memory", action="store_true")
    parser.add_argument("--only", nargs="*", default=[], help='words such as 832x480x17 or "8 GiB"')
    options = parser.parse_args()
    bench = build(None if options.in_memory else options.folder)
    rates = {"copy_gb_s": bench.copy_rate / 1e9, "read_gb_s": bench.read_rate / 1e9}
    print(json.dumps(rates), flush=True)
    for size, cases in CASES.items():
        wanted = [c for c in cases if all(word in f"{size} {c}" for word in options.only)]
        if not wanted:
            continue
        video = measure_resident(bench, size)
        print(json.dumps({"size": size, "case": "resident", "seconds": video.seconds}), flush=True)
        for case in wanted:
            print(json.dumps(measure_case(bench, video, case)), flush=True)


if __name__ == "__main__":
    main()
