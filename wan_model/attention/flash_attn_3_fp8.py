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

import torch
from torch import Tensor

from .backend import AttentionFn, Backend, Constraints, Platform
from .flash_attn_3 import DISTRIBUTIONS, INSTALL, MODULES, result_of

FP8 = torch.float8_e4m3fn
FP8_MAX = 448.0
FP8_ERROR = 5.3e-2
"""On data with little structure."""

RUN_TOKENS = 4096
"""What is between bf16 and fp8 is made for so many at a time: 42 MB each, for 40 heads of 128."""


def load(platform: Platform) -> AttentionFn:
    """Returns its function, which has our layout."""
    flash_attn_func = platform.member("flash_attn_func", *MODULES)

    def attend(q: Tensor, k: Tensor, v: Tensor, /) -> Tensor:
        width = q.shape[-1]
        rotation = hadamard(width, q)
        k_mean, v_mean = (x.mean(dim=1, keepdim=True, dtype=torch.float32) for x in (k, v))
        q8, q_scale = to_fp8(q, rotation=rotation)
        k8, k_scale = to_fp8(k, k_mean, rotation)
        v8, v_scale = to_fp8(v, v_mean)
        # The rotation has made q and k longer by sqrt(D) each.
        scales = {"q_descale": q_scale / width, "k_descale": k_scale, "v_descale": v_scale}
        out = result_of(flash_attn_func(q8, k8, v8, **scales))
        return out.add_(v_mean - token_mean(v8) * v_scale[:, None, :, None])

    return attend


def to_fp8(
    x: Tensor, mean: Tensor | None = None, rotation: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Returns (x - mean) @ rotation in e4m3, and by what to multiply that.

    Args:
        x: bf16 (B, L, H, D).
        mean: fp32 (B, 1, H, D), rounded to bf16 first; zero if there is none.
        rotation: (D, D) of 1 and -1; none if there is none.

    Returns:
        e4m3 (B, L, H, D), and fp32 (B, H): powers of two, so that bf16 holds them exactly.
    """
    low, high = torch.aminmax(x, dim=1, keepdim=True)
    mean = torch.zeros_like(low) if mean is None else mean.to(x.dtype)
    largest = torch.maximum(high - mean, mean - low).float()
    # A bound is as good as the greatest number itself: e4m3 is equally fine over 15 octaves.
    bound = largest.amax(dim=-1) if rotation is None else largest.sum(dim=-1)
    scale = torch.exp2(torch.ceil(torch.log2(bound / FP8_MAX)))
    scale = torch.where(bound > 0, scale, 1.0)
    factor = scale.reciprocal().to(x.dtype).unsqueeze(-1)
    offset = -factor * (mean if rotation is None else mean @ rotation)
    quantised = torch.empty_like(x, dtype=FP8)
    for part, target in zip(x.split(RUN_TOKENS, 1), quantised.split(RUN_TOKENS, 1), strict=True):
        rotated = part if rotation is None else part @ rotation
        target.copy_(torch.addcmul(offset, rotated, factor))
    return quantised, scale.squeeze(1)


def token_mean(x8: Tensor) -> Tensor:
    """Returns the mean over the tokens of e4m3 (B, L, H, D) as fp32 (B, 1, H, D)."""
    runs = (run.bfloat16() for run in x8.split(RUN_TOKENS, dim=1))
    sums = [run.sum(dim=1, keepdim=True, dtype=torch.float32) for run in runs]
    return torch.cat(sums, dim=1).sum(dim=1, keepdim=True) / x8.shape[1]


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
