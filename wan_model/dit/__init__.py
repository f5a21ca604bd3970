"""The diffusion transformer."""

from .block import Block
from .inputs import BlockInputs
from .model import BlockRunner, WanDiT, run_in_order

__all__ = ["Block", "BlockInputs", "BlockRunner", "WanDiT", "run_in_order"]
