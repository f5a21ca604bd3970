"""LoRA files of every dialect, in the names and sizes of a model, exact in fp32 or fp64.

`dialects` tells names, `file` opens, `kinds` makes `changes` (what is added) and `transforms` (what
depends on the weight), `translate` puts them in their places, `fit` tells whether there are any.
"""

from .changes import Addition, Change, Difference, Factors, LowRank, Pair
from .dialects import Names
from .file import LoraFile, open_lora
from .fit import is_foreign
from .pairs import experts_of, partner
from .transforms import Replacement
from .translate import LoraModules, Translated

__all__ = [
    "Addition",
    "Change",
    "Difference",
    "Factors",
    "LoraFile",
    "LoraModules",
    "LowRank",
    "Names",
    "Pair",
    "Replacement",
    "Translated",
    "experts_of",
    "is_foreign",
    "open_lora",
    "partner",
]
