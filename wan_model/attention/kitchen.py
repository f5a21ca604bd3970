"""int8 attention of comfy-kitchen, ComfyUI's own kernel library.

q and k are rotated by a Hadamard transform before they are rounded, which spreads outliers; q, k,
v and the probabilities are int8. Measured on an H100: 47.0 ms for 32,760 tokens of 40 heads (cuDNN
38.0 ms), error 1.7e-2; it is meant for cards whose 16 bit units are slow beside their int8 ones.
"""

from torch import Tensor

from .backend import FLOATS, AttentionFn, Backend, Constraints, Platform, UnavailableError


def load(platform: Platform) -> AttentionFn:
    """Returns its function in our layout.

    Raises:
        UnavailableError: if the package is missing, too old, or has no kernel for the GPU.
    """
    package = platform.first_of("comfy_kitchen")
    if not hasattr(package, "int8_attention"):
        raise UnavailableError("is missing from the installed comfy-kitchen, which is too old")
    if not package.int8_attention_is_available():
        raise UnavailableError("is not compiled for this GPU and driver (CUDA 13 needs 580)")

    def attend(q: Tensor, k: Tensor, v: Tensor, /) -> Tensor:
        return package.int8_attention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)

    return attend


BACKEND = Backend(
    "kitchen_int8",
    "comfy-kitchen int8 attention",
    load,
    Constraints(
        platforms=frozenset({"cuda", "rocm"}),
        at_least=(7, 5),
        dtypes=FLOATS,
        head_dims=range(1, 257),
        low_precision=True,
    ),
    nominal_error=1.7e-2,
    copies=1.5,
    distributions=("comfy-kitchen",),
    install="pip install -U comfy-kitchen",
)
