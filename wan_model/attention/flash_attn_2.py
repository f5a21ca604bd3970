"""FlashAttention-2 (`flash_attn`): the kernel PyTorch carries too, from its authors' package."""

from torch import Tensor

from .backend import AttentionFn, Backend, Platform


def load(platform: Platform) -> AttentionFn:
    """Returns its function, which has our layout."""
    flash_attn_func = platform.member("flash_attn_func", "flash_attn")

    def attend(q: Tensor, k: Tensor, v: Tensor, /) -> Tensor:
        return flash_attn_func(q, k, v)

    return attend


BACKEND = Backend(
    "flash_attn_2",
    "FlashAttention-2",
    load,
    distributions=("flash-attn",),
    install="pip install flash-attn --no-build-isolation (compiles, needs nvcc)",
)
