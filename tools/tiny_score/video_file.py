"""Reads videos from files."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

TENSOR_SUFFIXES = (".safetensors", ".npy")


def read_video(path: Path) -> Tensor:
    """Reads a video.

    Args:
        path: a video file, an animated or single image, or a tensor in [-1, 1] of shape
            [3, T, H, W] or [1, 3, T, H, W] (`.npy`, or the first one in `.safetensors`).

    Returns:
        In [-1, 1], fp32 [3, T, H, W].

    Raises:
        ValueError: the tensor is not a video.
    """
    if path.suffix not in TENSOR_SUFFIXES:
        return _decode(path)
    if path.suffix == ".npy":
        video = torch.from_numpy(np.load(path, allow_pickle=False))
    else:
        from safetensors.torch import load_file

        video = next(iter(load_file(path).values()))
    video = video.float()
    if video.ndim == 5 and len(video) == 1:
        video = video[0]
    if video.ndim != 4 or len(video) != 3:
        shape = tuple(video.shape)
        raise ValueError(f"The tensor is no video. Got {shape}, need [3, T, H, W]. Save one clip.")
    return video


def _decode(path: Path) -> Tensor:
    """Decodes a video file with PyAV, which ComfyUI brings."""
    import av

    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return torch.from_numpy(np.stack(frames)).permute(3, 0, 1, 2).float() / 127.5 - 1
