"""The diffusion transformer."""

from .block import Block
from .inputs import BlockInputs
from .wan_dit import BlockRunner, WanDiT, run_in_order

__all__ = ["Block", "BlockInputs", "BlockRunner", "WanDiT", "run_in_order"]
