"""Attention through `torch.nn.functional.scaled_dot_product_attention`: always available.

Torch chooses among its kernels by what runs on the device and with the dtype. On Nvidia cards
cuDNN is asked first: it is the fastest of them where it runs (H100, 32,760 tokens of 40 heads:
38 ms, flash 60 ms). It is asked for alone, and not by torch's order of priority: that order stays
changed for the whole process once it was set, even after it is set back. Each kernel is a backend
of its own as well.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.backends.cuda import SDPAParams, can_use_cudnn_attention
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..errors import BackendError
from .backend import FLOATS, AttentionFn, Backend, Constraints, Platform, UnavailableError

NO_KERNEL = ("No available kernel", "No viable backend")
"""How torch's message begins where the kernel that was asked for does not take the tensors."""


def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Returns softmax(q k^T / sqrt(D)) v.

    Args:
        q: (B, L, H, D).
        k: (B, S, H, D), same dtype as q.
        v: (B, S, H, D).

    Returns:
        (B, L, H, D), same dtype as v.
    """
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    if q.is_cuda and can_use_cudnn_attention(SDPAParams(q, k, v, None, 0.0, False, False)):
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


def kernel(which: SDPBackend) -> AttentionFn:
    """Returns `sdpa` with one kernel of torch and no other."""

    def attend(q: Tensor, k: Tensor, v: Tensor, /) -> Tensor:
        try:
            with sdpa_kernel([which]):
                return F.scaled_dot_product_attention(
                    q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
                ).transpose(1, 2)
        except RuntimeError as error:
            if not str(error).startswith(NO_KERNEL):
                raise
            raise BackendError(
                f"PyTorch's {which.name} kernel does not take these tensors. Got q "
                f"{tuple(q.shape)} {q.dtype}, need what the kernel supports on this GPU. Choose "
                "'sdpa', which takes another kernel then."
            ) from error

    return attend


def _cudnn(_: Platform) -> AttentionFn:
    if not torch.backends.cudnn.is_available():
        raise UnavailableError("needs cuDNN, which this PyTorch does not have")
    return kernel(SDPBackend.CUDNN_ATTENTION)


def _flash(_: Platform) -> AttentionFn:
    if not torch.backends.cuda.is_flash_attention_available():
        raise UnavailableError("is not part of this build of PyTorch")
    return kernel(SDPBackend.FLASH_ATTENTION)


ANY_GPU = frozenset({"cuda", "rocm"})
ANYWHERE = Constraints(
    platforms=ANY_GPU | {"other"},
    at_least=(0, 0),
    dtypes=FLOATS | {torch.float64},
    head_dims=range(1, 1 << 16),
)

BACKEND = Backend("sdpa", "PyTorch scaled dot product attention", lambda _: sdpa, ANYWHERE)

KERNELS = (
    Backend(
        "sdpa_cudnn",
        "PyTorch, cuDNN kernel",
        _cudnn,
        Constraints(head_dims=range(8, 129, 8)),
    ),
    Backend(
        "sdpa_flash",
        "PyTorch, FlashAttention-2 kernel",
        _flash,
        Constraints(platforms=ANY_GPU),
    ),
    Backend(
        "sdpa_efficient",
        "PyTorch, memory-efficient kernel",
        lambda _: kernel(SDPBackend.EFFICIENT_ATTENTION),
        Constraints(platforms=ANY_GPU, at_least=(5, 0), dtypes=FLOATS),
    ),
    Backend(
        "sdpa_math",
        "PyTorch, plain formula: holds all scores at once, for comparisons of short videos",
        lambda _: kernel(SDPBackend.MATH),
        ANYWHERE,
        candidate=False,
    ),
)
