"""One video on several devices: a forward pass split over the ranks of `torch.distributed`.

Every rank has the whole model, is given the whole input and returns the whole result. In between,
each computes its part of the tokens (`sequence`), of the samples (`samples`), or both; of a VAE
its part of the `rows`.
"""

from .degrees import Degrees, check_ulysses, fitting_ranks
from .mesh import Mesh
from .rows import decode_own_rows, decode_rows, encode_rows
from .samples import samples_parallel
from .sequence import sequence_parallel
from .team import Team

__all__ = [
    "Degrees",
    "Mesh",
    "Team",
    "check_ulysses",
    "decode_own_rows",
    "decode_rows",
    "encode_rows",
    "fitting_ranks",
    "samples_parallel",
    "sequence_parallel",
]
