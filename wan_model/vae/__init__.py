"""The Wan2.1 and Wan2.2 video autoencoders: causal, streamed, optionally tiled."""

from .full import FullVae, build_vae
from .peak_memory import choose_tiling, estimate_peak_bytes
from .tiling import Tiling
from .wan_vae import WanVae

__all__ = [
    "FullVae",
    "Tiling",
    "WanVae",
    "build_vae",
    "choose_tiling",
    "estimate_peak_bytes",
]
