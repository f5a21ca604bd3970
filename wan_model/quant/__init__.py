"""Number formats of linear layers."""

from .linear import Linear, LinearOperands, PlainFormat, ScaledFormat, Stored, WeightFormat
from .plan import AS_STORED, NumberFormat, WeightPlan, find, names, put, resolve
from .rows import quantise_rows, scale_weight, unscale_weight
from .storage import Storage, StoredWeight, convert, widening_of

__all__ = [
    "AS_STORED",
    "Linear",
    "LinearOperands",
    "NumberFormat",
    "PlainFormat",
    "ScaledFormat",
    "Storage",
    "Stored",
    "StoredWeight",
    "WeightFormat",
    "WeightPlan",
    "convert",
    "find",
    "names",
    "put",
    "quantise_rows",
    "resolve",
    "scale_weight",
    "unscale_weight",
    "widening_of",
]
