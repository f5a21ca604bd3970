"""FlashAttention-3 in fp8 (e4m3), for Hopper (H100, H200), with q, k and v prepared for it.

e4m3 has 3 bits after the point, so every number is off by 2.6 % (rms) whatever the scale; a scale
only keeps numbers within the range. What can be gained is that there be less to round:

- k without its mean over the tokens: all scores of a query change alike, which softmax ignores;
- v without its mean over the tokens, which is added to the output: the weights sum to one. What is
  added is the mean of what rounding left of v, so that rounding does not change the mean either;
- q and k rotated by a Hadamard matrix, which leaves q k^T as it is: a channel in which both are
  large is spread over all (incoherent processing, section 3.3 of arXiv 2407.08608).

Rms error, simulated for 6000 tokens with the kernel's rounding of the weights: 5.3e-2 on data with
little structure (5.6e-2 unprepared, as measured on an H100), where the 3 bits are what counts;
3.9e-2 instead of 1.3e-1 where q and k share two channels eight times as large as the rest; 1.6e-3
instead of 2.9e-3 where k and v have means far from zero.

Shape legend: B batch, L tokens, H heads, D head width.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..kernel_trial import triton_kernels_if_right
from .backend import AttentionFn, Backend, Constraints, Platform
from .flash_attn_3 import DISTRIBUTIONS, INSTALL, MODULES, result_of

FP8 = torch.float8_e4m3fn
FP8_MAX = 448.0
FP8_ERROR = 5.3e-2
"""On data with little structure."""

RUN_TOKENS = 2048
"""PyTorch prepares so many at a time: 42 MB in fp32, for 40 heads of 128."""


TOLERANCE = 4e-2
"""Most rms difference in a trial. PyTorch rounds what is rotated to bf16 first, so that a few
numbers go to the other neighbour in e4m3: 1.6e-2 on an H200."""


@dataclass(frozen=True)
class Preparation:
    """The passes over q, k and v; `fp8_kernels` says what each returns."""

    statistics: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
    quantize: Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]

    def to_fp8(
        self, x: Tensor, *, centred: bool, rotation: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns (x - mean) @ rotation in e4m3, by what to multiply that, and the mean.

        Args:
            x: bf16 (B, L, H, D).
            centred: whether the mean over the tokens is taken off.
            rotation: (D, D) of 1 and -1; none if there is none.

        Returns:
            e4m3 (B, L, H, D); fp32 (B, H), powers of two; fp32 (B, 1, H, D).
        """
        x = x.contiguous()
        mean, low, high = self.statistics(x)
        if not centred:
            mean = torch.zeros_like(mean)
        largest = torch.maximum(high - mean, mean - low)
        # A bound is as good as the greatest number itself: e4m3 is equally fine over 15 octaves.
        bound = largest.amax(dim=-1) if rotation is None else largest.sum(dim=-1)
        scale = torch.exp2(torch.ceil(torch.log2(bound / FP8_MAX)))
        scale = torch.where(bound > 0, scale, 1.0)
        x8 = self.quantize(x, mean, scale.reciprocal(), rotation)
        return x8, scale.squeeze(1), mean


def statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As `fp8_kernels.statistics`, in PyTorch."""
    parts = [
        torch.stack((run.sum(1, keepdim=True), *run.aminmax(dim=1, keepdim=True)))
        for run in map(Tensor.float, x.split(RUN_TOKENS, dim=1))
    ]
    sums, low, high = torch.cat(parts, dim=2)
    mean = sums.sum(1, keepdim=True) / x.shape[1]
    return mean, low.amin(1, keepdim=True), high.amax(1, keepdim=True)


def quantize(x: Tensor, mean: Tensor, factor: Tensor, rotation: Tensor | None) -> Tensor:
    """As `fp8_kernels.quantize`, in PyTorch."""
    out = torch.empty_like(x, dtype=FP8)
    for part, target in zip(x.split(RUN_TOKENS, 1), out.split(RUN_TOKENS, 1), strict=True):
        values = part - mean
        if rotation is not None:
            values = (values.to(x.dtype) @ rotation).float()
        target.copy_(values.mul_(factor.unsqueeze(-1)))
    return out


PLAIN = Preparation(statistics, quantize)


def fastest_preparation(device: torch.device) -> Preparation:
    """Returns that of Triton if it works on a device and agrees with PyTorch's in a trial."""
    if device.type != "cuda":
        return PLAIN
    return triton_kernels_if_right(
        make=_triton,
        plain=PLAIN,
        error=lambda kernels: trial_difference(kernels, device),
        tolerance=TOLERANCE,
        what="Preparing q, k and v for fp8",
    )


def _triton() -> Preparation:
    from . import fp8_kernels

    return Preparation(fp8_kernels.statistics, fp8_kernels.quantize)


def trial_difference(preparation: Preparation, device: torch.device) -> float:
    """Returns how far what it makes of a few tokens is from what PyTorch does, relative (rms)."""
    x = torch.arange(2 * 300 * 2 * 128, device=device).mul(0.7).sin().add(0.5)
    x = x.view(2, 300, 2, 128).bfloat16()
    made: list[list[Tensor]] = [[], []]
    for results, one in zip(made, (preparation, PLAIN), strict=True):
        for rotation in (None, hadamard(128, x)):
            x8, scale, mean = one.to_fp8(x, centred=True, rotation=rotation)
            results.append(x8.float() * scale[:, None, :, None] + mean)
    got, expected = map(torch.cat, made)
    return float((got - expected).norm() / expected.norm())


def load(platform: Platform) -> AttentionFn:
    """Returns its function, which has our layout."""
    flash_attn_func = platform.member("flash_attn_func", *MODULES)
    prepare = fastest_preparation(torch.device("cuda" if torch.cuda.is_available() else "cpu"))

    def attend(q: Tensor, k: Tensor, v: Tensor, /) -> Tensor:
        width = q.shape[-1]
        rotation = hadamard(width, q)
        q8, q_scale, _ = prepare.to_fp8(q, centred=False, rotation=rotation)
        k8, k_scale, _ = prepare.to_fp8(k, centred=True, rotation=rotation)
        v8, v_scale, v_mean = prepare.to_fp8(v, centred=True, rotation=None)
        # The rotation has made q and k longer by sqrt(D) each.
        scales = {"q_descale": q_scale / width, "k_descale": k_scale, "v_descale": v_scale}
        out = result_of(flash_attn_func(q8, k8, v8, **scales))
        left = prepare.statistics(v8)[0] * v_scale[:, None, :, None]
        return out.add_(v_mean - left)

    return attend


def hadamard(size: int, like: Tensor) -> Tensor:
    """Returns Sylvester's Hadamard matrix (size, size) of 1 and -1, for a power of two.

    Entry (i, j) is -1 where i & j has an odd number of bits.
    """
    number = torch.arange(size, device=like.device)
    bits = number[:, None] & number
    for shift in (8, 4, 2, 1):
        bits = bits ^ (bits >> shift)
    return (1 - 2 * (bits & 1)).to(like.dtype)


BACKEND = Backend(
    "flash_attn_3_fp8",
    "FlashAttention-3 in fp8",
    load,
    Constraints(
        at_least=(9, 0),
        below=(9, 1),
        dtypes=frozenset({torch.bfloat16}),
        head_dims=(64, 128, 256),
        low_precision=True,
    ),
    nominal_error=FP8_ERROR,
    copies=1.5,
    distributions=DISTRIBUTIONS,
    install=INSTALL,
)
