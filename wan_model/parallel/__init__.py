"""One video on several devices: a forward pass split over the ranks of `torch.distributed`.

Every rank has the whole model, is given the whole input and returns the whole result. In between,
each computes its part of the tokens (`sequence`), of the samples (`samples`), or both; of a VAE
its part of the `rows`.
"""

from .degrees import Degrees, check_ulysses, fitting_ranks
from .layer_line import LayerLine
from .link import Sharing, exchanged_bytes, measure_link
from .mesh import Mesh
from .rows import decode_own_rows, decode_rows, encode_rows
from .samples import samples_parallel
from .sequence import sequence_parallel
from .team import Team

__all__ = [
    "Degrees",
    "LayerLine",
    "Mesh",
    "Sharing",
    "Team",
    "check_ulysses",
    "decode_own_rows",
    "decode_rows",
    "encode_rows",
    "exchanged_bytes",
    "fitting_ranks",
    "measure_link",
    "samples_parallel",
    "sequence_parallel",
]
