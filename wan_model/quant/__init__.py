"""Number formats of linear layers."""

from .linear import Linear, PlainFormat, ScaledFormat, WeightFormat, scale_weight

__all__ = ["Linear", "PlainFormat", "ScaledFormat", "WeightFormat", "scale_weight"]
