"""What the linear layers' weights are stored as and how they are multiplied.

`formats` says what tensors mean, `packing` how their bits lie, `linear` multiplies dequantized
weights, `kernels` quantized ones, and a `policy` chooses between them when a model is loaded.
"""

from .adapters import Adapter, Kronecker, LowRank, add_low_rank, stacked, stacked_rank
from .expanding import fastest_matmul
from .formats import (
    FORMATS,
    PARTS,
    PLAIN,
    SCALED,
    Stored,
    StoredWeight,
    WeightFormat,
    convert,
    holds,
    merged,
)
from .gguf_formats import GGUF_FORMATS
from .linear import (
    DEQUANTIZED,
    Expanded,
    Expansion,
    Linear,
    LinearOperands,
    Matmul,
    QuantizedRows,
)
from .packing import quantize_rows, scale_weight, unscale_weight
from .policy import (
    AS_STORED,
    AUTO_8_BIT,
    QuantPolicy,
    WeightChoice,
    find,
    names,
    policy_for,
    short_name,
)

__all__ = [
    "AS_STORED",
    "AUTO_8_BIT",
    "DEQUANTIZED",
    "FORMATS",
    "GGUF_FORMATS",
    "PARTS",
    "PLAIN",
    "SCALED",
    "Adapter",
    "Expanded",
    "Expansion",
    "Kronecker",
    "Linear",
    "LinearOperands",
    "LowRank",
    "Matmul",
    "QuantPolicy",
    "QuantizedRows",
    "Stored",
    "StoredWeight",
    "WeightChoice",
    "WeightFormat",
    "add_low_rank",
    "convert",
    "fastest_matmul",
    "find",
    "holds",
    "merged",
    "names",
    "policy_for",
    "quantize_rows",
    "scale_weight",
    "short_name",
    "stacked",
    "stacked_rank",
    "unscale_weight",
]
