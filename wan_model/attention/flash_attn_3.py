"""FlashAttention-3, for Hopper (H100, H200): the fastest 16 bit kernel there.

Measured on an H100 with 40 heads of 128: 31.3 ms for 32,760 tokens, where cuDNN takes 38.0 ms.
The wheel on PyPI has no fp16 kernels, so bf16 is all that is offered; for fp8 see
`flash_attn_3_fp8`.
"""

import torch
from torch import Tensor

from .backend import AttentionFn, Backend, Constraints, Platform

MODULES = ("fa3_fwd_interface", "flash_attn_interface")
"""Of the wheel on PyPI, and of the authors' own build."""
DISTRIBUTIONS = ("fa3-fwd", "flash_attn_3")
INSTALL = "pip install fa3-fwd"


def load(platform: Platform) -> AttentionFn:
    """Returns its function, which has our layout."""
    flash_attn_func = platform.member("flash_attn_func", *MODULES)

    def attend(q: Tensor, k: Tensor, v: Tensor, /) -> Tensor:
        return result_of(flash_attn_func(q, k, v))

    return attend


def result_of(returned: Tensor | tuple[Tensor, ...]) -> Tensor:
    """Returns the result alone: versions before mid 2025 return the normalisation as well."""
    return returned[0] if isinstance(returned, tuple) else returned


BACKEND = Backend(
    "flash_attn_3",
    "FlashAttention-3",
    load,
    Constraints(at_least=(9, 0), below=(9, 1), dtypes=frozenset({torch.bfloat16})),
    distributions=DISTRIBUTIONS,
    install=INSTALL,
)
