"""Sparse attention of comfy-kitchen (Sol-Attn, arXiv 2607.24027).

Each block of 64 queries attends to the blocks of keys that matter to it; the others take part
as one averaged term each. It pays above some 12,000 tokens. The first steps decide the layout of
the video and the first layer sees noise, so both stay dense.

An attention function knows neither its layer nor its step, hence this one is not among the
registry's. It is a schedule, which is dense when it is called. Whoever runs the blocks knows layer
and step, and gives each block its function: `replace(inputs, attend=schedule.at(layer, step,
steps))`.
"""

from dataclasses import dataclass, replace

from torch import Tensor

from .backend import AttentionFn, Backend, Constraints, Platform, UnavailableError
from .sdpa import sdpa

TAU = 1.0
"""Threshold in standard deviations of a block's scores, the package's default. Lower keeps more
blocks: closer to dense attention, and slower."""

TRAINED_PART = 0.1
"""Of the blocks of keys, those that models of LightX2V's "NVFP4-Sparse" were trained to attend to,
in every step and layer; the others take no part (`dynamic_sparse_attn`, sparsity 0.9)."""

MIN_TOKENS = 12_000
"""Below, dense attention is usually faster, says the package."""


def load(platform: Platform) -> AttentionFn:
    """Returns its function, which has our layout.

    Raises:
        UnavailableError: if the package is missing, too old, or has no kernel for the GPU.
    """
    return _with(platform, tau=TAU)


def load_trained(platform: Platform) -> AttentionFn:
    """As `load`, for models that were trained with it."""
    return _with(platform, topk_ratio=TRAINED_PART, tail=False)


def _with(platform: Platform, **options: float) -> AttentionFn:
    package = platform.first_of("comfy_kitchen")
    if not hasattr(package, "sol_attn"):
        raise UnavailableError("is missing from the installed comfy-kitchen, which is too old")
    if not package.sol_attn_is_available():
        raise UnavailableError("is not compiled for this GPU and driver (CUDA 13 needs 580)")

    def attend(q: Tensor, k: Tensor, v: Tensor, /) -> Tensor:
        return package.sol_attn(q, k, v, **options)

    return attend


BACKEND = Backend(
    "kitchen_sol",
    "comfy-kitchen sparse attention",
    load,
    # Inside it computes in 8 bit, and its queries and keys have to be the same tokens.
    Constraints(platforms=frozenset({"cuda", "rocm"}), head_dims=(128,), low_precision=True),
    nominal_error=float("inf"),  # depends on the video
    copies=1.8,  # its own plan of memory at 480p81 and 720p81, in bytes, over those of q
    candidate=False,
    distributions=("comfy-kitchen",),
    install="pip install -U comfy-kitchen",
)

TRAINED = replace(BACKEND, load=load_trained)
"""The same for models that were trained with it."""


@dataclass(frozen=True)
class SparseSchedule:
    """An `AttentionFn` that is dense, and the sparse one for the layers and steps that bear it.

    The "sparse" one may also be dense and coarse: of 8 bit.
    """

    sparse: AttentionFn
    dense: AttentionFn = sdpa
    dense_layers: int = 1
    dense_part: float = 0.2
    """Part of the steps, from the first on."""
    min_tokens: int = MIN_TOKENS

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, /) -> Tensor:
        """Returns dense attention: right for every layer and step."""
        return self.dense(q, k, v)

    def is_sparse(self, step: int | None, steps: int) -> bool:
        """Whether any layer is sparse in a step, counted from 0; None for a pass between them."""
        return self.dense_part == 0 or (step is not None and step >= self.dense_part * steps)

    def at(self, layer: int, step: int | None, steps: int) -> AttentionFn:
        """Returns the function for a layer in a step, both counted from 0."""
        is_sparse = layer >= self.dense_layers and self.is_sparse(step, steps)
        return self.sparse_within_video if is_sparse else self.dense

    def sparse_within_video(self, q: Tensor, k: Tensor, v: Tensor, /) -> Tensor:
        """Returns sparse attention among many tokens, dense attention to text or among few."""
        pays = q.shape[1] == k.shape[1] >= self.min_tokens
        return (self.sparse if pays else self.dense)(q, k, v)
