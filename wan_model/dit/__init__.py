"""The diffusion transformer."""

from .block import Block
from .inputs import BlockInputs
from .wan_dit import BlockFn, BlockRunner, WanDiT, run_in_order

__all__ = ["Block", "BlockFn", "BlockInputs", "BlockRunner", "WanDiT", "run_in_order"]
