"""Noise for windows of time that know of each other: FreeNoise.

Shape legend: B clips, C latent channels, T latent frames, H x W latent pixels.
"""

import torch
from torch import Tensor


def free_noise(noise: Tensor, window: int, overlap: int, seed: int) -> Tensor:
    """Returns noise whose later windows hold the first one's frames in another order.

    Windows that begin from the same frames of noise show the same scene; in another order they
    do not show it in the same motion (Qiu et al., FreeNoise, arXiv 2310.15169, section 3.2).
    Frames beyond the first window are, in runs of `window - overlap`, those that lie one window
    earlier, shuffled.

    Args:
        noise: (B, C, T, H, W); it is left as it is.
        window: latent frames that the model sees at once.
        overlap: latent frames that neighbouring windows share, less than `window`.
        seed: of the order.
    """
    rng = torch.Generator().manual_seed(seed)
    frames = list(range(noise.shape[2]))
    stride = window - overlap
    for start in range(window, len(frames), stride):
        run = range(start, min(start + stride, len(frames)))
        order = torch.randperm(len(run), generator=rng).tolist()
        for place, source in zip(run, order, strict=True):
            frames[place] = frames[start - window + source]
    return noise[:, :, frames]
