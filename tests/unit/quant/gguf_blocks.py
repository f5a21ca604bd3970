"""Weights in the block types of GGUF, most of which no Python package can make of numbers."""

import torch
from torch import Tensor

from wan_model.quant.gguf_formats import GgufFormat


def random_blocks(kind: GgufFormat, rows: int, columns: int, *, scale: float = 0.01) -> Tensor:
    """Returns bytes (rows, bytes of a row): random bits, with scales that make numbers near 1."""
    generator = torch.Generator().manual_seed(sum(map(ord, kind.name)))
    count = rows * columns // kind.block
    blocks = torch.randint(256, (count, kind.block_bytes), generator=generator, dtype=torch.uint8)
    for start in kind.halves_at:
        halves = (1 + torch.rand(count, 1, generator=generator)).mul_(scale).half()
        blocks[:, start : start + 2] = halves.view(torch.uint8)
    return blocks.view(rows, -1)
