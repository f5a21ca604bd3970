"""Number formats of linear layers."""

from .choice import PrecisionChoice, choose_precision
from .linear import Linear, LinearOperands, PlainFormat, ScaledFormat, WeightFormat
from .plan import AS_STORED, FormatStatus, NumberFormat, WeightPlan, explain, find, names, resolve
from .rows import convert_weight, quantise_rows, round_weight, scale_weight, unscale_weight
from .widen import widened

__all__ = [
    "AS_STORED",
    "FormatStatus",
    "Linear",
    "LinearOperands",
    "NumberFormat",
    "PlainFormat",
    "PrecisionChoice",
    "ScaledFormat",
    "WeightFormat",
    "WeightPlan",
    "choose_precision",
    "convert_weight",
    "explain",
    "find",
    "names",
    "quantise_rows",
    "resolve",
    "round_weight",
    "scale_weight",
    "unscale_weight",
    "widened",
]
