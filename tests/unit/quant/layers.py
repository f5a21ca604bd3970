"""Layers and inputs that are hard to quantize, for the tests of this folder."""

import torch
from torch import Tensor, nn

from wan_model.quant import PLAIN, SCALED, Linear, QuantPolicy, StoredWeight, find
from wan_model.quant.kernels import MatmulKernel

OUT, IN = 96, 256


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def outlier_weight(out_features: int = OUT, in_features: int = IN) -> Tensor:
    """Rows whose sizes span a factor of 1000, as real weights have a few that are much larger."""
    weight = random(out_features, in_features, seed=1) / in_features**0.5
    weight[::7] *= 30
    weight[3::11] /= 30
    return weight


def outlier_tokens(*shape: int) -> Tensor:
    """Activations with a few large channels and one large token."""
    x = random(*shape, seed=2)
    x[..., 5::50] *= 8
    x[..., 0, :] *= 100
    return x


def plain(weight: Tensor) -> StoredWeight:
    return StoredWeight(PLAIN[weight.dtype], weight)


def scaled(weight: Tensor, scale: Tensor) -> StoredWeight:
    return StoredWeight(SCALED[weight.dtype], weight, scale)


def policy_of(
    name: str, kernel: MatmulKernel | None = None, device: str | torch.device = "cpu"
) -> QuantPolicy:
    """Returns the policy of a named format with one kernel, whether or not it works here."""
    kernels = () if kernel is None else (kernel,)
    return QuantPolicy(device=torch.device(device), target=find(name).format, kernels=kernels)


def linear(
    weight: Tensor, policy: QuantPolicy, compute_dtype: torch.dtype = torch.bfloat16
) -> Linear:
    """Returns a layer with a weight in the policy's format, and a bias."""
    layer = Linear(weight.shape[1], weight.shape[0], compute_dtype=compute_dtype)
    policy.place(layer, plain(weight), torch.device("cpu"))
    bias = random(weight.shape[0], seed=3).to(compute_dtype)
    layer.bias = nn.Parameter(bias, requires_grad=False)
    return layer


def row_errors(got: Tensor, exact: Tensor) -> Tensor:
    """Returns rms error over rms value of every token: (..., O) gives (...)."""
    difference = (got.double() - exact.double()).square().mean(-1)
    return (difference / exact.double().square().mean(-1)).sqrt()


def natural_errors(got: Tensor, x: Tensor, layer: Linear, weight: Tensor) -> Tensor:
    """Returns errors in units of |token| * |row of the weight| / sqrt(I), flat: (tokens, O).

    That is the size of a matmul of random numbers. A format that serves every token and every
    feature equally well has the same error everywhere in these units.
    """
    tokens, dense = x.double().flatten(0, -2), weight.double()
    bias = 0 if layer.bias is None else layer.bias.double()
    sizes = tokens.norm(dim=1, keepdim=True) * dense.norm(dim=1) / weight.shape[1] ** 0.5
    return (got.double().flatten(0, -2) - tokens @ dense.T - bias) / sizes


def rms_error(got: Tensor, exact: Tensor) -> float:
    return row_errors(got.flatten(), exact.flatten()).item()
