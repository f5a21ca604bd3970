"""Where a GPU's time goes while several of them work: kernels by kind, and what overlaps.

`profiled` runs a call once more under PyTorch's profiler. Kernels of an exchange wait for other
GPUs while they run, so their time is more than that of the bytes.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.profiler import ProfilerActivity, profile

KINDS = (
    ("exchange", ("nccl",)),
    ("attention", ("flash", "fmha", "attention")),
    ("convolution", ("conv", "fprop", "implicit")),
    ("matmul", ("gemm", "nvjet", "cutlass")),
)
"""And what kernels' names have in them."""
OTHER = "other"
BARRIER = "AllReduce"
"""In the name of its kernel; what is measured has none."""
LONGEST = 10
"""Kernels that are named."""


@dataclass(frozen=True)
class Span:
    """When a kernel ran."""

    name: str
    start: float
    end: float
    """Seconds."""

    @property
    def kind(self) -> str:
        """See `KINDS`."""
        name = self.name.lower()
        return next((kind for kind, parts in KINDS if any(p in name for p in parts)), OTHER)


def profiled(call: Callable[[], object]) -> dict[str, Any]:
    """Returns what a call has this rank's GPU do, see `summary`; nothing on the CPU."""
    if not torch.cuda.is_available():
        return {}
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        dist.barrier()  # profilers begin at different times
        call()
        torch.cuda.synchronize()
    # What stands for a collective as a whole is called nccl:send and the like.
    spans = [
        Span(event.name, event.time_range.start / 1e6, event.time_range.end / 1e6)
        for event in (found.events() or ())
        if event.device_type.name == "CUDA" and not event.name.startswith("nccl:")
    ]
    begin = max((span.end for span in spans if BARRIER in span.name), default=0.0)
    return summary([span for span in spans if span.start >= begin])


def summary(spans: Sequence[Span]) -> dict[str, Any]:
    """Returns seconds: all, by kind, of exchange that nothing is computed beside, and idle."""
    if not spans:
        return {}
    by_kind = totals((span.kind, span) for span in spans)
    by_name = totals((span.name[:100], span) for span in spans)
    whole = max(span.end for span in spans) - min(span.start for span in spans)
    busy = covered(spans)
    computing = covered(span for span in spans if span.kind != "exchange")
    return {
        "seconds": round(whole, 5),
        "kinds": by_kind,
        "exchange_alone": round(busy - computing, 5),
        "idle": round(whole - busy, 5),
        "kernels": dict(list(by_name.items())[:LONGEST]),
    }


def totals(named: Iterable[tuple[str, Span]]) -> dict[str, float]:
    """Returns the seconds of each name, the longest first."""
    found: dict[str, float] = {}
    for name, span in named:
        found[name] = found.get(name, 0.0) + span.end - span.start
    return {name: round(found[name], 5) for name in sorted(found, key=lambda n: -found[n])}


def covered(spans: Iterable[Span]) -> float:
    """Returns the seconds in which one of them runs or more."""
    total, until = 0.0, float("-inf")
    for span in sorted(spans, key=lambda span: span.start):
        total += max(0.0, span.end - max(span.start, until))
        until = max(until, span.end)
    return total
