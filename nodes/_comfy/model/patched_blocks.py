"""Blocks that other nodes replace or follow, and the cancel button between them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ....wan_model.dit import BlockFn, BlockInputs
from ..host.runtime import raise_if_interrupted
from .core_hooks import AFTER_BLOCK, patches
from .core_shapes import CoreInputs

BLOCKS, BLOCK = "dit", "double_block"
"""Where ComfyUI keeps replacements of blocks: `patches_replace[BLOCKS][(BLOCK, number)]`."""


@dataclass(frozen=True)
class PatchedBlocks:
    """A `BlockRunner` that has other nodes' replacements run in place of blocks, and more after.

    They may keep what goes through them, while our blocks write to it: those get copies.
    """

    options: dict[str, Any]
    """ComfyUI's transformer options. They say which block is running, as in core's model."""
    x: Tensor
    """What the model was called with (B, C_in, T, H, W)."""
    time: Callable[[], Tensor]
    """Returns the embedded timesteps (B, 1, C), or (B, T, C) one for each frame."""

    def __call__(self, blocks: Iterable[BlockFn], x: Tensor, inputs: BlockInputs) -> Tensor:
        """Returns the residual stream after all blocks."""
        replacements = self.options.get("patches_replace", {}).get(BLOCKS, {})
        core = CoreInputs(inputs, self.x.shape[2])
        for number, block in enumerate(blocks):
            raise_if_interrupted()
            self.options["block_index"] = number
            replacement = replacements.get((BLOCK, number))
            if replacement is None:
                x = block(x, inputs)
            else:
                x = self._replaced(block, replacement, x, core)
            x = self._followed(number, x)
        return x

    def _replaced(self, block: BlockFn, replacement: Any, x: Tensor, core: CoreInputs) -> Tensor:
        def original(args: dict[str, Any]) -> dict[str, Any]:
            return {"img": block(args["img"].clone(), core.changed(args))}

        args = {
            "img": x,
            "txt": core.ours.text,
            "vec": core.e,
            "pe": core.freqs,
            "transformer_options": self.options,
        }
        return replacement(args, {"original_block": original})["img"].clone()

    def _followed(self, number: int, x: Tensor) -> Tensor:
        """Returns what the patches after a block make of its result."""
        for patch in patches(self.options, AFTER_BLOCK):
            args = {
                "img": x,
                "x": self.x,
                "vec": self.time(),
                "block_index": number,
                "img_offset": 0,
                "transformer_options": self.options,
            }
            x = patch(args)["img"].clone()
        return x
