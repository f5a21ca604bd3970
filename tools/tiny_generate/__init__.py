"""Makes clips with the tiny Wan2.2 that is shipped, through `wan_model` alone: no ComfyUI.

wan = load_tiny(Path("models"), "t2v")
videos = decode(wan.vae, generate(wan, ["a red ball rolls to the left"]))
"""

from .clips import FRAMES, clip_noise, decode, generate
from .models import SIZE_PX, TinyWan, find_file, load_tiny, load_tiny_vae
from .sample import Guided, sample
from .text import PromptEncoder

__all__ = [
    "FRAMES",
    "SIZE_PX",
    "Guided",
    "PromptEncoder",
    "TinyWan",
    "clip_noise",
    "decode",
    "find_file",
    "generate",
    "load_tiny",
    "load_tiny_vae",
    "sample",
]
