"""The optimiser: Muon for matrices inside the networks, AdamW for everything else.

Muon replaces a matrix' momentum by the nearest matrix whose singular values are all about 1, so
that rare directions are learned as fast as common ones; small networks need about half the steps.
Sources: Keller Jordan, "Muon: An optimizer for hidden layers in neural networks" (2024); the factor
that makes its steps as large as AdamW's is of Liu et al., arXiv:2502.16982.
"""

from collections import defaultdict

import torch
from torch import Tensor

from .config import Optimisation

MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic Newton-Schulz iteration; they trade exact ones for fast convergence."""
ITERATIONS = 5
ADAMW_RMS = 0.2
"""Root mean square of a typical AdamW step, in learning rates."""
SMALLEST_SIDE = 8
OUTER_LAYERS = (
    "patch_embedding",
    "head.",
    "modulation",
    "shared",
    "embed_tokens",
    "attention_bias",
)
"""Parts of names of what meets data or tokens, which AdamW does better."""


def is_inner_matrix(name: str, weight: Tensor) -> bool:
    """Tells whether Muon should train a weight. A convolution counts as the matrix of its rows."""
    sides = (len(weight), weight.numel() // max(1, len(weight)))
    is_matrix = weight.ndim in (2, 4, 5) and min(sides) >= SMALLEST_SIDE
    return is_matrix and not any(part in name for part in OUTER_LAYERS)


def orthogonalise(matrices: Tensor) -> Tensor:
    """Returns matrices (N, R, C) with the same singular vectors, and singular values near 1."""
    a, b, c = COEFFICIENTS
    x = matrices.bfloat16() if matrices.is_cuda else matrices
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Muon over matrices of any number of axes; those of one shape are done together."""

    def __init__(self, weights: list[Tensor], lr: Tensor, weight_decay: float) -> None:
        """Takes fp32 weights for which `is_inner_matrix` holds, and a learning rate ()."""
        super().__init__(weights, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Changes the weights by their gradients."""
        del closure
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is not None:
                    by_shape[weight.flatten(1).shape].append(weight)
            for weights in by_shape.values():
                self._step_together(weights, group["lr"], group["weight_decay"])

    def _step_together(self, weights: list[Tensor], lr: Tensor, weight_decay: float) -> None:
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        for weight in weights:
            if "momentum" not in self.state[weight]:
                self.state[weight]["momentum"] = torch.zeros_like(weight)
        momenta = [self.state[weight]["momentum"] for weight in weights]
        torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
        ahead = torch._foreach_lerp(gradients, momenta, MOMENTUM)
        steps = orthogonalise(torch.stack([tensor.flatten(1) for tensor in ahead]))
        size = ADAMW_RMS * max(steps.shape[1:]) ** 0.5
        torch._foreach_mul_(weights, 1 - lr * weight_decay)
        steps *= lr * size
        changes = [s.view(w.shape) for s, w in zip(steps, weights, strict=True)]
        torch._foreach_sub_(weights, changes)


def build_optimisers(
    names: list[str], weights: list[Tensor], recipe: Optimisation
) -> list[torch.optim.Optimizer]:
    """Returns the optimisers of a model's fp32 weights; groups know their rate as "initial_lr".

    Learning rates are tensors, so that a recorded step reads what they are set to.
    """
    named = list(zip(names, weights, strict=True))
    inner = [weight for name, weight in named if is_inner_matrix(name, weight)]
    outer = [weight for name, weight in named if not is_inner_matrix(name, weight)]
    on_gpu = outer[0].is_cuda
    lr, matrix_lr = (
        torch.tensor(rate, device=outer[0].device)
        for rate in (recipe.learning_rate, recipe.matrix_learning_rate)
    )
    adamw = torch.optim.AdamW(
        outer,
        lr=lr,
        betas=recipe.betas,
        weight_decay=recipe.weight_decay,
        fused=on_gpu,
        capturable=on_gpu,
    )
    optimisers = [Muon(inner, matrix_lr, recipe.weight_decay), adamw]
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["initial_lr"] = float(group["lr"])
    return optimisers
