"""Number formats of linear layers."""

from .linear import (
    Linear,
    LinearOperands,
    PlainFormat,
    ScaledFormat,
    WeightFormat,
    scale_weight,
    unscale_weight,
)

__all__ = [
    "Linear",
    "LinearOperands",
    "PlainFormat",
    "ScaledFormat",
    "WeightFormat",
    "scale_weight",
    "unscale_weight",
]
