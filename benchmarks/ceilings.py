"""The best rates that a machine reaches at the sizes of Wan2.2: matmuls, attention, convolutions.

Each is the fastest of a few shapes and ways that a model really has, over a fraction of a second.
"""

import math
import sys
from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.timing import elapsed
from wan_model.attention import AttentionFn
from wan_model.config import DiTConfig
from wan_model.errors import WanError

TRIAL_SECONDS = 0.15
"""How long each rate is measured: a GPU at its power limit takes a while to settle."""

MOST_CALLS = 200
COPY_BYTES = 1 << 28
STAGES = ((1, 4), (2, 4), (4, 2))
"""Width of the VAE's last three stages over that of the last, and frames of one latent frame."""

ATTENTION, COPY, CONVOLUTION = "attention_tflops", "copy_gb_s", "convolution_tflops"
Rates = dict[str, float]
"""Measured ceilings in 1e12 operations (`*_tflops`) or 1e9 bytes per second (`copy_gb_s`)."""


def forward_rates(
    config: DiTConfig, tokens: int, attend: AttentionFn, device: torch.device
) -> Rates:
    """Measures the ceilings for a forward pass: matmuls, attention, copies.

    What cannot be measured here is left out, and said on stderr.
    """
    trials: dict[str, Callable[[], float]] = {
        f"{kind}_tflops": partial(matmul_rate, kind, config, tokens, device)
        for kind in ("bf16", "fp8", "int8")
    }
    trials[ATTENTION] = partial(attention_rate, config, tokens, attend, device)
    trials[COPY] = partial(copy_rate, device)
    found = {name: attempt(name, trial) for name, trial in trials.items()}
    return {name: rate for name, rate in found.items() if rate is not None}


def attempt(name: str, trial: Callable[[], float]) -> float | None:
    """Returns what a trial measures; None if it fails, which must not stop a benchmark."""
    try:
        return float(f"{trial():.4g}")
    except (WanError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        reason = str(error).strip().partition("\n")[0]
        sys.stderr.write(f"No floor without {name}: {type(error).__name__}: {reason}\n")
        return None


def matmul_rate(kind: str, config: DiTConfig, tokens: int, device: torch.device) -> float:
    """Returns the best TFLOP/s of a linear layer's matmul with all tokens, or with the text."""
    rates, rows = [], max(tokens, config.text_len)
    for outputs in (config.dim, config.ffn_dim):
        call = matmul(kind, rows, config.dim, outputs, device)
        rates.append(2 * rows * config.dim * outputs / seconds_per_call(call, device) / 1e12)
    return max(rates)


def matmul(
    kind: str, rows: int, inputs: int, outputs: int, device: torch.device
) -> Callable[[], Tensor]:
    """Returns a matmul of random numbers with nothing around it: scales and bias are left out."""
    generator = torch.Generator(device).manual_seed(0)
    draw = partial(torch.randn, generator=generator, device=device, dtype=torch.bfloat16)
    x, weight = draw(rows, inputs), draw(outputs, inputs)
    if kind == "bf16":
        return partial(F.linear, x, weight)
    if kind == "int8":
        x, weight = (part.mul_(40).clamp_(-127, 127).to(torch.int8) for part in (x, weight))
        return partial(torch.ops.aten._int_mm, x, weight.t())
    return partial(
        torch.ops.aten._scaled_mm,
        x.to(torch.float8_e4m3fn),
        weight.to(torch.float8_e4m3fn).t(),
        scale_a=torch.ones(rows, 1, device=device),
        scale_b=torch.ones(1, outputs, device=device),
        out_dtype=torch.bfloat16,
        use_fast_accum=True,
    )


def attention_rate(
    config: DiTConfig, tokens: int, attend: AttentionFn, device: torch.device
) -> float:
    """Returns TFLOP/s of self-attention as it is called by the blocks."""
    shape = (1, tokens, config.num_heads, config.head_dim)
    generator = torch.Generator(device).manual_seed(0)
    q, k, v = torch.randn((3, *shape), generator=generator, device=device, dtype=torch.bfloat16)
    seconds = seconds_per_call(lambda: attend(q, k, v), device)
    return 4 * tokens**2 * config.dim / seconds / 1e12


def copy_rate(device: torch.device) -> float:
    """Returns GB/s of a copy within the device's memory, read and written bytes added up."""
    source = torch.zeros(COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / seconds_per_call(lambda: target.copy_(source), device) / 1e9


def convolution_rate(
    channels: int,
    pixels: tuple[int, int, int],
    patch: int,
    dtype: torch.dtype,
    device: torch.device,
) -> float:
    """Returns the best TFLOP/s of the 3 x 3 x 3 convolutions of the VAE's last three stages."""
    rates = []
    for scale, frames in STAGES:
        size = (frames, *(max(1, side // patch // scale) for side in pixels[1:]))
        with device:
            for operations, call in convolutions(channels * scale, size, dtype):
                rates.append(operations / seconds_per_call(call, device) / 1e12)
    return max(rates)


def convolutions(
    channels: int, size: tuple[int, ...], dtype: torch.dtype
) -> Iterator[tuple[int, Callable[[], Tensor]]]:
    """Yields the ways to do a causal convolution, each with its operations.

    In three dimensions, in either layout of memory; in two, with three frames' channels in a row.
    """
    frames, *area = size
    of_a_frame = 2 * 27 * channels**2 * math.prod(area)
    weight = torch.randn(channels, channels, 3, 3, 3, dtype=dtype)
    x = torch.randn(1, channels, frames + 2, *area, dtype=dtype)
    for layout in (torch.contiguous_format, torch.channels_last_3d):
        pair = (part.contiguous(memory_format=layout) for part in (x, weight))
        yield frames * of_a_frame, partial(F.conv3d, *pair, padding=(0, 1, 1))
    pair = (part.flatten(1, 2) for part in (x[:, :, :3], weight))
    pair = (part.contiguous(memory_format=torch.channels_last) for part in pair)
    yield of_a_frame, partial(F.conv2d, *pair, padding=1)


def seconds_per_call(call: Callable[[], object], device: torch.device) -> float:
    """Returns the mean of as many calls in a row as fill the time of a trial, after two others."""
    call()
    calls = round(TRIAL_SECONDS / elapsed(call, device))
    calls = max(1, min(MOST_CALLS, calls))

    def several() -> None:
        for _ in range(calls):  # results are dropped at once, many of them would not fit
            call()

    return elapsed(several, device) / calls
