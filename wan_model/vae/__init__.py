"""The Wan2.1 and Wan2.2 video autoencoders: causal, streamed, optionally tiled."""

from .memory import choose_tiling, estimate_peak_bytes
from .model import WanVae, build_vae
from .tiling import Tiling

__all__ = ["Tiling", "WanVae", "build_vae", "choose_tiling", "estimate_peak_bytes"]
