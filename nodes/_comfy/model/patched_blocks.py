"""Blocks that other nodes replace, and the cancel button between them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ....wan_model.dit import BlockFn, BlockInputs
from ..host.runtime import raise_if_interrupted

BLOCKS, BLOCK = "dit", "double_block"
"""Where ComfyUI keeps replacements of blocks: `patches_replace[BLOCKS][(BLOCK, number)]`."""


@dataclass(frozen=True)
class PatchedBlocks:
    """A `BlockRunner` that has other nodes' replacements run in place of blocks."""

    options: dict[str, Any]
    """ComfyUI's transformer options."""

    def __call__(self, blocks: Iterable[BlockFn], x: Tensor, inputs: BlockInputs) -> Tensor:
        """Returns the residual stream after all blocks."""
        replacements = self.options.get("patches_replace", {}).get(BLOCKS, {})
        for number, block in enumerate(blocks):
            raise_if_interrupted()
            replacement = replacements.get((BLOCK, number))
            if replacement is None:
                x = block(x, inputs)
            else:
                x = self._replaced(block, replacement, x, inputs)
        return x

    def _replaced(self, block: BlockFn, replacement: Any, x: Tensor, inputs: BlockInputs) -> Tensor:
        def original(args: dict[str, Any]) -> dict[str, Any]:
            return {"img": block(args["img"], inputs)}

        args = {
            "img": x,
            "txt": inputs.text,
            "vec": inputs.time,
            "pe": inputs.rotation,
            "transformer_options": self.options,
        }
        return replacement(args, {"original_block": original})["img"]
