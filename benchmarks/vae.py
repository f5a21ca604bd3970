"""VAE decode and encode with random weights at full size: time, memory, error of 16 bit.

    python benchmarks/vae.py wan2.1 832x480x81

Prints one JSON line per operation: seconds, peak bytes above the weights and the estimate that
tiling is chosen from; for decode also the PSNR of bf16 against fp32 on a short video.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from wan_model.config import VaeConfig
from wan_model.vae import WanVae, build_vae, estimate_peak_bytes
from wan_model.vae.memory import Operation

CONFIGS = {
    "wan2.1": VaeConfig(variant="wan2.1", encoder_dim=96, decoder_dim=96, z_dim=16),
    "wan2.2": VaeConfig(variant="wan2.2", encoder_dim=160, decoder_dim=256, z_dim=48),
}


def random_vae(config: VaeConfig) -> WanVae:
    """Returns an fp32 VAE on the GPU with weights that keep activations near unit size."""
    with torch.device("meta"):
        vae = build_vae(config)
    vae = vae.to_empty(device="cuda")
    generator = torch.Generator("cuda").manual_seed(0)
    for name, parameter in vae.named_parameters():
        value = torch.randn(parameter.shape, generator=generator, device="cuda")
        if name.endswith("gamma"):
            value = 1 + 0.1 * value
        else:
            value *= (parameter.shape[1:].numel() or 400) ** -0.5
        parameter.data.copy_(value)
    return vae.requires_grad_(False)


def measured(function) -> tuple[torch.Tensor, float, int]:
    """Returns the second call's result, seconds and peak bytes."""
    function()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before, start = torch.cuda.memory_allocated(), time.perf_counter()
    result = function()
    torch.cuda.synchronize()
    return result, time.perf_counter() - start, torch.cuda.max_memory_allocated() - before


@torch.inference_mode()
def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("variant", choices=CONFIGS)
    parser.add_argument("size", help="WIDTHxHEIGHTxFRAMES")
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    options = parser.parse_args()
    config, dtype = CONFIGS[options.variant], getattr(torch, options.dtype)
    width, height, frames = (int(part) for part in options.size.split("x"))
    stride = config.spatial_stride
    vae = random_vae(config)
    latent = torch.randn(1, config.z_dim, 3, 32, 48, device="cuda")
    exact = vae.decode(latent)
    vae = vae.to(dtype)
    mse = (vae.decode(latent).float() - exact).square().mean() / exact.abs().max() ** 2
    latent = torch.randn(1, config.z_dim, (frames + 3) // 4, height // stride, width // stride)
    video = torch.zeros(1, 3, frames, height, width)
    calls: dict[Operation, Callable[[], torch.Tensor]] = {
        "decode": lambda: vae.decode(latent, out=video),
        "encode": lambda: vae.encode(video),
    }
    for operation, call in calls.items():
        _, seconds, peak_bytes = measured(call)
        estimate_bytes = estimate_peak_bytes(config, operation, height, width, dtype)
        line = {
            "vae": options.variant,
            "operation": operation,
            "size": options.size,
            "dtype": options.dtype,
            "seconds": round(seconds, 3),
            "peak_gib": round(peak_bytes / 2**30, 3),
            "estimate_gib": round(estimate_bytes / 2**30, 3),
        }
        if operation == "decode":
            line["psnr_to_fp32_db"] = round(-10 * math.log10(mse.item()), 1)
        sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
