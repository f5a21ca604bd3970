"""Whether Triton's kernels can be trusted with a VAE's pointwise work on a device."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ..kernel_trial import triton_kernels_if_right
from .layers import RMSNorm
from .pointwise import PLAIN, Pointwise

TRITON_DTYPES = (torch.bfloat16, torch.float16, torch.float32)

TOLERANCE = 2e-2
"""Most rms error of a trial: rounding to bf16 costs 0.003, a value in a wrong place about 1."""


def fastest_pointwise(device: torch.device, dtype: torch.dtype) -> Pointwise:
    """Returns Triton's kernels where they give right numbers in a trial, otherwise `PLAIN`.

    They have no gradients, and run on the current device only.
    """
    if device.type != "cuda" or dtype not in TRITON_DTYPES:
        return PLAIN
    if device.index is not None and device.index != torch.cuda.current_device():
        return PLAIN
    return triton_kernels_if_right(
        make=_triton,
        plain=PLAIN,
        error=lambda kernels: trial_error(kernels, device, dtype),
        tolerance=TOLERANCE,
        what="A VAE's pointwise work",
    )


def _triton() -> Pointwise:
    from .triton_kernels import TritonPointwise

    return TritonPointwise()


def trial_error(pointwise: Pointwise, device: torch.device, dtype: torch.dtype) -> float:
    """Returns the rms error of all functions' results, relative to the plain ones."""
    results, expected = (torch.cat(list(run_trial(p, device, dtype))) for p in (pointwise, PLAIN))
    return float((results - expected).norm() / expected.norm())


@torch.no_grad()
def run_trial(pointwise: Pointwise, device: torch.device, dtype: torch.dtype) -> Iterator[Tensor]:
    """Yields fp32 results of the functions for small frames of sines, which are no two alike."""

    def sines(*shape: int) -> Tensor:
        numbers = torch.arange(torch.Size(shape).numel(), device=device)
        return numbers.mul(0.7).sin().view(shape).to(dtype)

    # A width whose kernels the real VAEs use as well: nothing is compiled for the trial alone.
    height, width, channels = 3, 5, 160
    x, bias = sines(2, height, width, channels), sines(channels)
    norm = RMSNorm(channels, 3).to(device, dtype)
    norm.gamma.copy_(1 + bias.view(-1, 1, 1, 1))
    for given in (None, bias):
        for result in pointwise.norm_silu(x.clone(), given, norm, (x.cos(), x.square())):
            yield result.float().flatten()
    for shortcut in (None, x):
        yield pointwise.add(x.cos(), bias, shortcut).float().flatten()
    for shortcut in (None, x, x.repeat(1, 1, 1, 2).cumsum(1)):
        y = sines(2, height + 1, width + 1, 4 * channels)
        yield pointwise.interleave(y, bias, shortcut).float().flatten()
