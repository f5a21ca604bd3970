"""The VAEs' norms as single kernels.

PyTorch's own kernel gives every row a thread block, and here rows have 12 numbers: on an H100 the
norms took 24 of a step's 65 ms.
"""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn

from wan_model.vae import FullVae
from wan_model.vae.layers import RMSNorm

EPSILON = 1e-24


class FusedNorm(nn.Module):
    """RMSNorm over channels with the weight of another one, compiled on a GPU."""

    def __init__(self, norm: RMSNorm) -> None:
        """Shares the weight of `norm`."""
        super().__init__()
        self.gamma = norm.gamma

    def forward(self, x: Tensor) -> Tensor:
        """Returns the shape and dtype of x (B, C, ...)."""
        pixels = x.movedim(1, -1)
        rows = pixels.reshape(-1, pixels.shape[-1])
        if x.is_cuda:
            torch._dynamo.mark_static(rows, 1)
            rows = fused_normalise()(rows, self.gamma.flatten())
        else:
            rows = normalise(rows, self.gamma.flatten())
        return rows.view(pixels.shape).movedim(-1, 1)


def normalise(rows: Tensor, gamma: Tensor) -> Tensor:
    """Returns rows (N, C) divided by their root mean squares, times gamma (C,)."""
    x = rows.float()
    x = x * (x.square().mean(dim=1, keepdim=True) + EPSILON).rsqrt() * gamma.float()
    return x.to(rows.dtype)


@cache
def fused_normalise() -> Callable[[Tensor, Tensor], Tensor]:
    """Returns `normalise` as a kernel; asking for one imports the compiler, which takes seconds."""
    return torch.compile(normalise, dynamic=True)


def fuse_norms(vae: FullVae) -> FullVae:
    """Exchanges the norms of a VAE; names of weights stay."""
    parents = [(m, name) for m in vae.modules() for name, _ in m.named_children()]
    for parent, name in parents:
        child = parent.get_submodule(name)
        if isinstance(child, RMSNorm):
            parent.set_submodule(name, FusedNorm(child))
    return vae
