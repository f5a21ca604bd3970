"""One forward pass of a transformer with random weights at full size: time, memory, error.

    python benchmarks/forward.py a14b 832x480x81 --format bf16

Prints one JSON line: median seconds, peak bytes above the weights, the planner's estimate of
them, and the rms error relative to fp32 on a shorter video (--error-frames).
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from wan_model.attention import resolve
from wan_model.config import DiTConfig, Precision
from wan_model.dit import WanDiT
from wan_model.dit.memory import activation_bytes
from wan_model.quant import Linear, ScaledFormat
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


def random_dit(config: DiTConfig, precision: Precision, number_format: str) -> WanDiT:
    """Returns a model on the GPU whose weights are drawn block by block from a fixed seed."""
    with torch.device("meta"):
        model = WanDiT(config, precision=precision, attention=resolve("auto"))
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
        if isinstance(owner, Linear) and owner.compute_dtype != torch.float32:
            if number_format == "fp8" and leaf == "weight":
                scale = value.abs().amax() / 448
                owner.format, owner.weight_scale = ScaledFormat(), scale
                value = (value / scale).to(torch.float8_e4m3fn)
            else:
                value = value.bfloat16()
        setattr(owner, leaf, torch.nn.Parameter(value, requires_grad=False))
    return model


def random_inputs(config: DiTConfig, stride: int, width: int, height: int, frames: int):
    """Returns latent, timestep and text for one clip."""
    size = latent_size(width, height, frames, stride)
    generator = torch.Generator("cuda").manual_seed(1)
    shape = (1, config.out_channels, size.frames, size.height, size.width)
    latent = torch.randn(shape, generator=generator, device="cuda")
    text = torch.randn(1, 100, config.text_dim, generator=generator, device="cuda")
    return (latent, torch.tensor([900.0], device="cuda"), text), shape


def measure(model: WanDiT, inputs: tuple, repeats: int) -> tuple[float, int]:
    """Returns the median seconds of a forward pass and its peak bytes above the weights."""
    model(*inputs)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    seconds = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        model(*inputs)
        end.record()
        end.synchronize()
        seconds.append(start.elapsed_time(end) / 1000)
    return statistics.median(seconds), torch.cuda.max_memory_allocated() - before


@torch.inference_mode()
def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=CONFIGS)
    parser.add_argument("sizes", nargs="+", help="WIDTHxHEIGHTxFRAMES")
    parser.add_argument("--format", choices=("bf16", "fp8"), default="bf16")
    parser.add_argument("--residual", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--error-frames", type=int, default=0, help="0: no error measurement")
    options = parser.parse_args()
    config, stride = CONFIGS[options.model]
    residual = torch.float32 if options.residual == "fp32" else torch.bfloat16
    precision = Precision(compute_dtype=torch.bfloat16, residual_dtype=residual)
    model = random_dit(config, precision, options.format)
    what = {"model": options.model, "format": options.format, "residual": options.residual}
    for size in options.sizes:
        width, height, frames = (int(part) for part in size.split("x"))
        inputs, shape = random_inputs(config, stride, width, height, frames)
        seconds, peak_bytes = measure(model, inputs, options.repeats)
        estimate_bytes = activation_bytes(config, precision, 1, *shape[2:])
        line = {
            **what,
            "size": size,
            "seconds": round(seconds, 4),
            "peak_gib": round(peak_bytes / 2**30, 3),
            "estimate_gib": round(estimate_bytes / 2**30, 3),
        }
        sys.stdout.write(json.dumps(line) + "\n")
    if options.error_frames:
        inputs, _ = random_inputs(config, stride, 832, 480, options.error_frames)
        got = model(*inputs)
        del model
        torch.cuda.empty_cache()
        exact_model = random_dit(config, Precision(), "fp32")
        exact = exact_model(*inputs)
        error = ((got - exact).square().mean() / exact.square().mean()).sqrt().item()
        sys.stdout.write(json.dumps({**what, "rms_error": error}) + "\n")


if __name__ == "__main__":
    main()
