"""SageAttention: int8 scores, and 16 bit or fp8 matmuls with v.

Version 1 has one kernel, in Triton. Version 2 has four, each with GPUs it is right for; "sage"
takes the one for this GPU. k is smoothed in all of them (its mean over the tokens is taken off,
which softmax does not notice), since Wan's keys have channels far from zero.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from .backend import AttentionFn, Backend, Constraints, Platform, UnavailableError

INT8_ERROR = 1.3e-2
"""Rms error of int8 scores, simulated on data without outliers; 1.6e-2 to 2.5e-2 with them."""
FP8_ERROR = 3.8e-2
"""The same with fp8 matmuls."""
COPIES = 3.0
"""As measured with version 1; taken for all."""

INSTALL_1 = "pip install sageattention"
INSTALL_2 = "install a wheel of version 2 from github.com/woct0rdho/SageAttention/releases"


@dataclass(frozen=True)
class Entry:
    """One kernel of version 2."""

    name: str
    """Ours."""
    function: str
    label: str
    error: float
    at_least: tuple[int, int] = (8, 0)
    below: tuple[int, int] = (13, 0)
    compiled: str | None = None
    """Flag of `sageattention.core` that says whether the build has the kernel."""
    options: dict[str, str] = field(default_factory=dict)


FP16_TRITON = Entry(
    "sage_fp16_triton",
    "sageattn_qk_int8_pv_fp16_triton",
    "SageAttention 2, int8 and fp16, Triton",
    INT8_ERROR,
)
FP16_CUDA = Entry(
    "sage_fp16_cuda",
    "sageattn_qk_int8_pv_fp16_cuda",
    "SageAttention 2, int8 and fp16 summed in fp32",
    INT8_ERROR,
    compiled="SM80_ENABLED",
    options={"pv_accum_dtype": "fp32"},
)
# How fp8 matmuls are summed is left to the package: the choice depends on the CUDA it was built
# with, and versions that lack one return uninitialised memory instead of an error.
FP8_CUDA = Entry(
    "sage_fp8_cuda",
    "sageattn_qk_int8_pv_fp8_cuda",
    "SageAttention 2, int8 and fp8 (RTX 40 and 50)",
    FP8_ERROR,
    at_least=(8, 9),
    compiled="SM89_ENABLED",
)
FP8_SM90 = Entry(
    "sage_fp8_sm90",
    "sageattn_qk_int8_pv_fp8_cuda_sm90",
    "SageAttention 2, int8 and fp8 (H100, H200)",
    FP8_ERROR,
    at_least=(9, 0),
    below=(9, 1),
    compiled="SM90_ENABLED",
)

RIGHT_ENTRIES: dict[tuple[int, int], tuple[Entry, ...]] = {
    (8, 0): (FP16_CUDA, FP16_TRITON),
    (8, 6): (FP16_CUDA, FP16_TRITON),
    (8, 7): (FP16_CUDA, FP16_TRITON),
    (8, 9): (FP8_CUDA, FP16_CUDA),
    (9, 0): (FP8_SM90, FP16_CUDA),
    (12, 0): (FP8_CUDA,),
    (12, 1): (FP8_CUDA,),
}
"""By compute capability, the best first: the package's own choice, but for fp32 sums on 8.6."""


def load_entry(entry: Entry, platform: Platform) -> AttentionFn:
    """Returns one kernel of version 2.

    Raises:
        UnavailableError: if the package is missing, is version 1 or lacks the compiled kernel.
    """
    package = platform.first_of("sageattention")
    if not hasattr(package, entry.function):
        raise UnavailableError("needs SageAttention 2, and version 1 is installed")
    core = platform.first_of("sageattention.core")
    if entry.compiled and not getattr(core, entry.compiled, True):
        raise UnavailableError("is not compiled into the installed sageattention")
    function = getattr(package, entry.function)
    options: dict[str, Any] = {"tensor_layout": "NHD", "smooth_k": True, **entry.options}
    if entry is FP8_CUDA and platform.capability[0] == 12:
        options["qk_quant_gran"] = "per_warp"

    def attend(q: Tensor, k: Tensor, v: Tensor, /) -> Tensor:
        return function(q, k, v, **options)

    return attend


def load_right_one(platform: Platform) -> AttentionFn:
    """Returns version 1's kernel, or version 2's for this GPU.

    Raises:
        UnavailableError: with the reason of the preferred kernel if none is there.
    """
    package = platform.first_of("sageattention")
    if not hasattr(package, FP16_TRITON.function):
        return version_1(platform.member("sageattn", "sageattention"))
    reasons = []
    for entry in RIGHT_ENTRIES.get(platform.capability, ()):
        try:
            return load_entry(entry, platform)
        except UnavailableError as error:
            reasons.append(f"{entry.name} {error}")
    found = "{}.{}".format(*platform.capability)
    raise UnavailableError("; ".join(reasons) or f"has no kernel for compute capability {found}")


def version_1(sageattn: Callable[..., Tensor]) -> AttentionFn:
    """Returns the kernel of version 1, which would smooth the caller's k in place."""

    def attend(q: Tensor, k: Tensor, v: Tensor, /) -> Tensor:
        centred = k - k.mean(dim=1, keepdim=True)
        return sageattn(q, centred, v, tensor_layout="NHD", smooth_k=False)

    return attend


def _backend(entry: Entry) -> Backend:
    return Backend(
        entry.name,
        entry.label,
        lambda platform: load_entry(entry, platform),
        Constraints(
            at_least=entry.at_least,
            below=entry.below,
            head_dims=range(1, 129),
            low_precision=True,
        ),
        nominal_error=entry.error,
        copies=COPIES,
        distributions=("sageattention",),
        install=INSTALL_2,
    )


BACKENDS = (
    Backend(
        "sage",
        "SageAttention: its kernel for this GPU",
        load_right_one,
        Constraints(below=(13, 0), head_dims=(64, 96, 128), low_precision=True),
        nominal_error=INT8_ERROR,
        copies=COPIES,
        distributions=("sageattention",),
        install=f"{INSTALL_1}, or {INSTALL_2}",
    ),
    *(_backend(entry) for entry in (FP16_TRITON, FP16_CUDA, FP8_CUDA, FP8_SM90)),
)
