"""A short trial of attention functions on the GPU: time, and error against float64.

Shape legend: B batch, L tokens, H heads, D head width.
"""

import logging
import math
import statistics
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ..errors import BackendError
from ..host_memory import is_full
from .auto import Measurement
from .backend import AttentionFn

log = logging.getLogger(__name__)

HEAD_DIM = 128
SHAPES = ((32_760, 8), (9_001, 24))
"""(L, H): a fifth of the heads at 832x480x81, and a length that fills no block of any kernel."""
REPEATS = 3
CHECKED_QUERIES = 128
CHECKED_HEADS = 2

OUTLIERS, OUTLIER_SCALE, OUTLIER_MEAN = 4, 3.0, 4.0
"""Channels of k that are larger than the rest and far from zero, which is what makes int8 keys
hard. Scores keep a deviation of 1, so that many keys take part and errors are not hidden."""


def sample(
    length: int,
    heads: int,
    device: torch.device | str,
    dtype: torch.dtype = torch.bfloat16,
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns q, k, v (1, L, H, D), the same for every call."""
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device)

    scale, mean = torch.ones(HEAD_DIM, device=device), torch.zeros(HEAD_DIM, device=device)
    scale[:OUTLIERS] = OUTLIER_SCALE
    mean[:OUTLIERS] = OUTLIER_MEAN * normal(OUTLIERS)
    shape = (1, length, heads, HEAD_DIM)
    q = (normal(*shape) / scale.sqrt()).to(dtype)
    k = (normal(*shape) * scale.sqrt() + mean).to(dtype)
    return q, k, normal(*shape).to(dtype)


def exact(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Returns attention in float64 for a slice: evenly spread queries of the first heads.

    float64 since fp32 matmuls may be rounded to TF32, by a setting that is not ours.
    """
    q, k, v = (checked(q).double(), *(x[:, :, :CHECKED_HEADS].double() for x in (k, v)))
    scores = torch.einsum("blhd,bshd->bhls", q, k) / q.shape[-1] ** 0.5
    return torch.einsum("bhls,bshd->blhd", scores.softmax(dim=-1), v)


def checked(x: Tensor) -> Tensor:
    """Returns the slice of q or of an output that `exact` computes."""
    step = max(1, x.shape[1] // CHECKED_QUERIES)
    return x[:, ::step, :CHECKED_HEADS]


def rms_error(out: Tensor, expected: Tensor) -> float:
    """Returns the rms of the difference relative to the rms of what is expected."""
    difference = out.double() - expected
    return (difference.square().mean() / expected.square().mean()).sqrt().item()


def milliseconds(call: Callable[[], object], repeats: int = REPEATS) -> float:
    """Returns the median time of a call on the current CUDA device."""
    times = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def measure(
    functions: Mapping[str, AttentionFn], dtype: torch.dtype = torch.bfloat16
) -> list[Measurement]:
    """Tries functions on the current CUDA device, by name, in the dtype that a model computes in.

    Takes about a second and 0.7 GiB, which it gives back.

    Raises:
        torch.OutOfMemoryError: says nothing about the functions; better tried again later.
    """
    totals = dict.fromkeys(functions, Measurement(""))
    # Callers may be building a model on the meta device.
    with torch.inference_mode(), torch.device("cuda"):
        for length, heads in SHAPES:
            q, k, v = sample(length, heads, "cuda", dtype)
            expected = exact(q, k, v)
            for name, function in functions.items():
                totals[name] = _add(totals[name], name, function, (q, k, v), expected)
    torch.cuda.empty_cache()
    return list(totals.values())


def _add(
    before: Measurement,
    name: str,
    function: AttentionFn,
    qkv: tuple[Tensor, Tensor, Tensor],
    expected: Tensor,
) -> Measurement:
    """Returns what was measured before with one more shape: sum of times, greatest error."""
    if before.problem is not None:
        return before
    try:
        error = rms_error(checked(function(*qkv)), expected)
        time = milliseconds(lambda: function(*qkv))
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, BackendError, AssertionError, ValueError, TypeError) as failure:
        if is_full(failure):
            raise torch.OutOfMemoryError(str(failure)) from failure  # not the kernel's fault
        log.warning("Attention backend %s failed a trial: %s", name, failure)
        return Measurement(name, problem=f"failed a trial ({type(failure).__name__})")
    if not math.isfinite(error):
        return Measurement(name, problem="gave values that are not finite")
    return Measurement(name, before.milliseconds + time, max(before.error, error))
