"""Quantised weights of a block widened once, however many times its layers are called."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from .linear import Linear, PlainFormat, ScaledFormat


@contextmanager
def widened(block: nn.Module, device: torch.device) -> Iterator[None]:
    """Lets 8-bit weights that are widened for every product be widened only once.

    A block works on runs of tokens, and so widens each weight several times, and scales each
    result. Inside this context its weights are ordinary numbers of the compute dtype, scales
    included: 0.7 GiB more for an A14B block. Layers that multiply 8-bit numbers are left alone.

    Args:
        block: its weights may be replaced outside of the context only.
        device: where it computes, as `x.device`; weights that lie elsewhere are left alone.
    """
    stored = [
        (layer, layer.weight, layer.format)
        for layer in block.modules()
        if isinstance(layer, Linear) and type(layer.format) in (PlainFormat, ScaledFormat)
        if layer.weight.itemsize == 1 and layer.weight.device == device
    ]
    try:
        for layer, _, number_format in stored:
            dense = number_format.dense(layer, layer.compute_dtype)
            layer.weight = nn.Parameter(dense, requires_grad=False)
            layer.format = PlainFormat()
        yield
    finally:
        for layer, weight, number_format in stored:
            layer.weight, layer.format = weight, number_format
