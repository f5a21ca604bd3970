"""One forward pass of a transformer with random weights at full size: time, memory, error.

    python benchmarks/forward.py a14b 832x480x81 --format bf16

Prints one JSON line per size: seconds of the first pass, which compiles with --compile, median
seconds of the others, peak bytes above the weights, the planner's estimate of them; then the rms
error relative to fp32 on a shorter video (--error-frames).
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from wan_model.attention import AttentionFn, names, resolve
from wan_model.attention.registry import Selected
from wan_model.config import DiTConfig, Precision
from wan_model.dit import BlockRunner, WanDiT, run_in_order
from wan_model.dit.compiled import CompiledStages
from wan_model.dit.memory import activation_bytes
from wan_model.quant import AS_STORED, Linear
from wan_model.quant import names as format_names
from wan_model.quant import resolve as resolve_format
from wan_model.shapes import latent_size

A14B = DiTConfig(
    dim=5120, ffn_dim=13824, num_heads=40, num_layers=40, in_channels=16, out_channels=16
)
TI2V_5B = DiTConfig(
    dim=3072, ffn_dim=14336, num_heads=24, num_layers=30, in_channels=48, out_channels=48
)
CONFIGS = {
    "a14b": (A14B, 8),
    "5b": (TI2V_5B, 16),
}
"""Sizes and spatial stride of the VAE."""


def random_dit(
    config: DiTConfig, precision: Precision, number_format: str, attention: AttentionFn
) -> WanDiT:
    """Returns a model on the GPU whose weights are drawn one by one from fixed seeds."""
    with torch.device("meta"):
        model = WanDiT(config, precision=precision, attention=attention)
    device = torch.device("cuda", torch.cuda.current_device())
    plan = None if number_format == AS_STORED else resolve_format(number_format, device)
    generator = torch.Generator("cuda")
    for index, (name, parameter) in enumerate(model.named_parameters()):
        generator.manual_seed(index)
        shape = parameter.shape
        value = torch.randn(shape, generator=generator, device="cuda")
        owner = model.get_submodule(name.rpartition(".")[0])
        leaf = name.rpartition(".")[2]
        if "norm" in name and leaf == "weight":
            value = 1 + 0.1 * value
        else:
            value *= 0.3 if leaf == "modulation" else (shape[1:].numel() or 400) ** -0.5
        if plan and isinstance(owner, Linear) and owner.compute_dtype != torch.float32:
            value = value.bfloat16()
            if leaf == "weight":
                plan.place(owner, value, None, device)
                continue
        setattr(owner, leaf, torch.nn.Parameter(value, requires_grad=False))
    return model


def attention_of(name: str) -> AttentionFn:
    """Returns a backend; "auto" compares them anew, as it does the first time on a machine."""
    with tempfile.TemporaryDirectory() as folder:
        return resolve(name, memory=Path(folder) / "attention.json")


def random_inputs(config: DiTConfig, stride: int, width: int, height: int, frames: int):
    """Returns latent, timestep and text for one clip."""
    size = latent_size(width, height, frames, stride)
    generator = torch.Generator("cuda").manual_seed(1)
    shape = (1, config.out_channels, size.frames, size.height, size.width)
    latent = torch.randn(shape, generator=generator, device="cuda")
    text = torch.randn(1, 100, config.text_dim, generator=generator, device="cuda")
    return (latent, torch.tensor([900.0], device="cuda"), text), shape


def measure(predict: Callable[[], torch.Tensor], repeats: int) -> tuple[float, float, int]:
    """Returns the seconds of a first forward pass, the median of others, their peak bytes."""
    torch.cuda.synchronize()
    begin = time.perf_counter()
    predict()
    torch.cuda.synchronize()
    first_seconds = time.perf_counter() - begin
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    seconds = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        predict()
        end.record()
        end.synchronize()
        seconds.append(start.elapsed_time(end) / 1000)
    peak_bytes = torch.cuda.max_memory_allocated() - before
    return first_seconds, statistics.median(seconds), peak_bytes


@torch.inference_mode()
def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=CONFIGS)
    parser.add_argument("sizes", nargs="+", help="WIDTHxHEIGHTxFRAMES")
    formats = [name for name in format_names() if name not in (AS_STORED, "auto")]
    parser.add_argument("--format", choices=formats, default="bf16", help="of the blocks' weights")
    parser.add_argument("--attention", choices=names(), default="auto")
    parser.add_argument("--residual", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--compile", action="store_true", help="compile the blocks' stages")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--error-frames", type=int, default=0, help="0: no error measurement")
    options = parser.parse_args()
    config, stride = CONFIGS[options.model]
    residual = torch.float32 if options.residual == "fp32" else torch.bfloat16
    precision = Precision(compute_dtype=torch.bfloat16, residual_dtype=residual)
    runner: BlockRunner = run_in_order
    if options.compile:
        runner = CompiledStages().around(run_in_order)
    attention = attention_of(options.attention)
    model = random_dit(config, precision, options.format, attention)
    what = {
        "model": options.model,
        "format": options.format,
        "attention": attention.backend.name if isinstance(attention, Selected) else "sdpa",
        "residual": options.residual,
        "compiled": options.compile,
    }
    for size in options.sizes:
        width, height, frames = (int(part) for part in size.split("x"))
        inputs, shape = random_inputs(config, stride, width, height, frames)
        predict = partial(model.velocity, *inputs, None, runner)
        first_seconds, seconds, peak_bytes = measure(predict, options.repeats)
        estimate_bytes = activation_bytes(config, precision, 1, *shape[2:])
        line = {
            **what,
            "size": size,
            "first_seconds": round(first_seconds, 2),
            "seconds": round(seconds, 4),
            "peak_gib": round(peak_bytes / 2**30, 3),
            "estimate_gib": round(estimate_bytes / 2**30, 3),
        }
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
    if options.error_frames:
        inputs, _ = random_inputs(config, stride, 832, 480, options.error_frames)
        got = model.velocity(*inputs, None, runner)
        del model
        torch.cuda.empty_cache()
        exact_model = random_dit(config, Precision(), AS_STORED, resolve("sdpa"))
        exact = exact_model(*inputs)
        error = ((got - exact).square().mean() / exact.square().mean()).sqrt().item()
        sys.stdout.write(json.dumps({**what, "rms_error": error}) + "\n")


if __name__ == "__main__":
    main()
