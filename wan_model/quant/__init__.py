"""Number formats of linear layers."""

from .linear import Linear, LinearOperands, PlainFormat, ScaledFormat, WeightFormat
from .plan import AS_STORED, NumberFormat, WeightPlan, find, names, resolve
from .rows import convert_weight, quantise_rows, scale_weight, unscale_weight

__all__ = [
    "AS_STORED",
    "Linear",
    "LinearOperands",
    "NumberFormat",
    "PlainFormat",
    "ScaledFormat",
    "WeightFormat",
    "WeightPlan",
    "convert_weight",
    "find",
    "names",
    "quantise_rows",
    "resolve",
    "scale_weight",
    "unscale_weight",
]
