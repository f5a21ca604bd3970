"""Normalisation in fp32, whatever comes in.

Small weights may be left on the host by a memory manager; they are brought to x when used.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the whole hidden width, before the split into heads.

    The result has the dtype of x: whoever rotates it gives fp32, so that it is rounded once.
    """

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(dim), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Returns (..., dim)."""
        weight = self.weight.to(x.device, torch.float32)
        return F.rms_norm(x.float(), weight.shape, weight, self.eps).to(x.dtype)


class LayerNorm(nn.Module):
    """(x - mean) / std over the hidden width, without weights."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Returns fp32 (..., dim)."""
        return F.layer_norm(x.float(), x.shape[-1:], eps=self.eps)


class AffineLayerNorm(nn.Module):
    """(x - mean) / std * weight + bias over the hidden width."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(dim), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(dim), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Returns fp32 (..., dim)."""
        weight = self.weight.to(x.device, torch.float32)
        bias = self.bias.to(x.device, torch.float32)
        return F.layer_norm(x.float(), weight.shape, weight, bias, self.eps)
