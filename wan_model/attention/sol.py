"""Sparse attention of comfy-kitchen (Sol-Attn, arXiv 2607.24027).

Each block of 64 queries attends to the blocks of keys that matter to it; the others take part
as one averaged term each. It pays above some 12,000 tokens. The first steps decide the layout of
the video and the first layer sees noise, so both stay dense.

An attention function knows neither its layer nor its step, hence this one has no name in the
registry. Whoever runs the blocks knows both and gives each block the function of its layer:
`replace(inputs, attend=schedule.at(layer, step, steps))`.
"""

from dataclasses import dataclass

from torch import Tensor

from .backend import AttentionFn, Backend, Constraints, Platform, UnavailableError
from .sdpa import sdpa

TAU = 1.0
"""Threshold in standard deviations of a block's scores, the package's default. Lower keeps more
blocks: closer to dense attention, and slower."""


def load(platform: Platform) -> AttentionFn:
    """Returns its function, which has our layout.

    Raises:
        UnavailableError: if the package is missing, too old, or has no kernel for the GPU.
    """
    package = platform.first_of("comfy_kitchen")
    if not hasattr(package, "sol_attn"):
        raise UnavailableError("is missing from the installed comfy-kitchen, which is too old")
    if not package.sol_attn_is_available():
        raise UnavailableError("is not compiled for this GPU and driver (CUDA 13 needs 580)")

    def attend(q: Tensor, k: Tensor, v: Tensor, /) -> Tensor:
        return package.sol_attn(q, k, v, tau=TAU)

    return attend


BACKEND = Backend(
    "kitchen_sol",
    "comfy-kitchen sparse attention",
    load,
    # Its queries and keys are the same tokens, which is what low precision is limited to as well.
    Constraints(platforms=frozenset({"cuda", "rocm"}), head_dims=(128,), low_precision=True),
    nominal_error=float("inf"),  # depends on the video
    candidate=False,
    distributions=("comfy-kitchen",),
    install="pip install -U comfy-kitchen",
)


@dataclass(frozen=True)
class SparseSchedule:
    """Which layers and steps are sparse."""

    sparse: AttentionFn
    dense: AttentionFn = sdpa
    dense_layers: int = 1
    dense_part: float = 0.2
    """Part of the steps, from the first on."""

    def at(self, layer: int, step: int, steps: int) -> AttentionFn:
        """Returns the function for a layer in a step, both counted from 0."""
        is_dense = layer < self.dense_layers or step < self.dense_part * steps
        return self.dense if is_dense else self.sparse
