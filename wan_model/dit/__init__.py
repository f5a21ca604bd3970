"""The diffusion transformer."""

from .block import Block
from .block_runner import BlockFn, BlockRunner, run_in_order
from .inputs import BlockInputs
from .wan_dit import WanDiT

__all__ = ["Block", "BlockFn", "BlockInputs", "BlockRunner", "WanDiT", "run_in_order"]
