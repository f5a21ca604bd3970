"""Attention through `torch.nn.functional.scaled_dot_product_attention`: always available.

Torch itself picks flash, memory-efficient, cuDNN or plain mathematics for the device and dtype.
"""

import torch.nn.functional as F
from torch import Tensor


def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Returns softmax(q k^T / sqrt(D)) v.

    Args:
        q: (B, L, H, D).
        k: (B, S, H, D), same dtype as q.
        v: (B, S, H, D).

    Returns:
        (B, L, H, D), same dtype as v.
    """
    out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    return out.transpose(1, 2)


def always_available() -> str | None:
    """Returns None: there is no reason why this backend could not run."""
    return None
