"""Blocks whose weights are expanded once for each visit, not for each run of tokens.

Weights of GGUF stay packed where they travel and rest. What their matmuls take lies in a scratch
that all blocks of a forward pass share, one after the other.
"""

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager

import torch
from torch import Tensor, nn

from ..offload.slab import SlabLayout
from ..quant import Expanded, Expansion, Linear
from .block_runner import BlockFn, BlockRunner
from .inputs import BlockInputs

Expansions = dict[Linear, Expansion]


class _Scratch:
    """Memory on one device for the expanded weights of a block at a time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._memory = torch.empty(0, dtype=torch.uint8)

    def views(self, layout: SlabLayout) -> list[Tensor]:
        """Returns the tensors of a layout; those of another one are gone then."""
        # Made once and used in either mode; detached, or compiled code would be made for its size.
        with torch.inference_mode(False):
            if layout.nbytes > self._memory.numel():
                self._memory = torch.empty(layout.nbytes, dtype=torch.uint8, device=self._device)
            return [view.detach() for view in layout.views(self._memory)]

    @contextmanager
    def expanded(self, block: nn.Module) -> Iterator[None]:
        """Has a block's layers multiply with expanded weights meanwhile."""
        expansions = _expansions(block, self._device)
        try:
            views = iter(self.views(_layout(expansions)) if expansions else ())
            for layer, expansion in expansions.items():
                weight = next(views)
                scale = next(views) if expansion.has_scale else None
                expansion.write(weight, scale)
                layer.expanded = Expanded(
                    format=expansion.format,
                    weight=weight,
                    weight_scale=scale,
                    matmul=expansion.matmul,
                    bias=layer.bias,
                    compute_dtype=layer.compute_dtype,
                )
            yield
        finally:
            for layer in expansions:
                layer.expanded = None


def with_expanded(runner: BlockRunner) -> BlockRunner:
    """Returns a runner of blocks whose weights are expanded while each of them runs.

    Nothing changes while gradients are recorded, for which weights would have to stay.
    """

    def run(blocks: Iterable[BlockFn], x: Tensor, inputs: BlockInputs, /) -> Tensor:
        if inputs.residual.recorded:
            return runner(blocks, x, inputs)
        # Closed at once: otherwise a block stays expanded until an exception's frames are gone.
        with closing(_visited(blocks, _Scratch(x.device))) as visited:
            return runner(visited, x, inputs)

    return run


def expanded_bytes(blocks: Iterable[nn.Module]) -> int:
    """Returns what the scratch takes, of the block that needs most."""
    return max((_layout(_expansions(block)).nbytes for block in blocks), default=0)


def _visited(blocks: Iterable[BlockFn], scratch: _Scratch) -> Generator[BlockFn, None, None]:
    for block in blocks:
        if isinstance(block, nn.Module):
            with scratch.expanded(block):
                yield block
        else:
            yield block


def _expansions(block: nn.Module, device: torch.device | None = None) -> Expansions:
    """Returns what becomes of a block's layers; of those on a device, if one is given."""
    found: Expansions = {}
    for layer in block.modules():
        if isinstance(layer, Linear) and device in (None, layer.weight.device):
            expansion = layer.expansion()
            if expansion is not None:
                found[layer] = expansion
    return found


def _layout(expansions: Expansions) -> SlabLayout:
    tensors: dict[str, Tensor] = {}
    for number, (layer, expansion) in enumerate(expansions.items()):
        shape, dtype = (layer.out_features, layer.in_features), expansion.format.dtype
        tensors[f"{number}.weight"] = torch.empty(shape, dtype=dtype, device="meta")
        if expansion.has_scale:
            tensors[f"{number}.scale"] = torch.empty(layer.out_features, 1, device="meta")
    return SlabLayout.of(tensors)
