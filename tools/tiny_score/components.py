"""Connected regions of a mask, in plain PyTorch.

Shapes: T frames, H and W pixels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def label(mask: Tensor) -> Tensor:
    """Numbers the connected regions of every frame; diagonal neighbours are connected.

    Every pixel starts as its own region. Regions then take the highest number among their
    neighbours and among the pixels they point to, which needs few rounds even for long shapes
    (label propagation with pointer jumping; Shiloach and Vishkin 1982).

    Args:
        mask: bool, [T, H, W].

    Returns:
        Numbers that are equal within a region and differ between regions and frames; 0 outside,
        int64 [T, H, W].
    """
    inside = mask.flatten()
    # Numbers are indices plus one; fp64 holds them exactly, and max_pool wants floats.
    labels = torch.where(inside, torch.arange(1, inside.numel() + 1, device=mask.device), 0)
    while True:
        grid = labels.view(mask.shape)[:, None].double()
        nearby = F.max_pool2d(grid, 3, stride=1, padding=1).long().flatten()
        nearby = torch.where(inside, nearby, 0)
        if torch.equal(nearby, labels):
            return labels.view(mask.shape)
        # A region's own pixel learns what any of its members found.
        pointer = torch.cat([labels.new_zeros(1), labels])
        pointer = pointer.scatter_reduce(0, labels, nearby, "amax")
        pointer[1:] = torch.where(inside, torch.maximum(pointer[1:], nearby), 0)
        pointer[0] = 0
        labels = pointer[pointer[pointer[1:]]]
