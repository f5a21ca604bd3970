"""The Wan2.1 and Wan2.2 video autoencoders: causal, streamed, optionally tiled."""

from .full import FullVae, build_vae
from .memory import choose_tiling, estimate_peak_bytes
from .model import WanVae
from .tiling import Tiling

__all__ = [
    "FullVae",
    "Tiling",
    "WanVae",
    "build_vae",
    "choose_tiling",
    "estimate_peak_bytes",
]
