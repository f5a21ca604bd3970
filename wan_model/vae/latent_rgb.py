"""Rough colours straight from latents: a linear map per latent pixel, for previews.

For released models such maps are published with ComfyUI's latent formats; those of wan22-tiny,
whose VAEs have latents of their own, are fitted by `tools/fit_latent_rgb.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class LatentRgb:
    """Colour = latent x factors + bias, in [-1, 1]."""

    factors: Sequence[Sequence[float]]
    """Per latent channel: red, green, blue."""
    bias: Sequence[float]
    first: "LatentRgb | None" = None
    """For the first latent frame, which is one frame, where its colours are others."""

    def frames(self, latent: Tensor) -> Tensor:
        """Returns one small image per latent frame, on the latent's device.

        Args:
            latent: [C, T, H, W] as the transformer sees it, mean 0 and deviation 1.

        Returns:
            uint8 [T, H, W, 3].
        """
        return self.on(latent.device).frames(latent)

    def on(self, device: torch.device) -> "ColourMap":
        """Returns the map on a device. Bringing it there waits for the device, so do it once."""
        factors, bias = (
            torch.tensor(values, device=device, dtype=torch.float32)
            for values in (self.factors, self.bias)
        )
        return ColourMap(factors, bias, None if self.first is None else self.first.on(device))


@dataclass(frozen=True)
class ColourMap:
    """A `LatentRgb` on a device."""

    factors: Tensor
    bias: Tensor
    first: "ColourMap | None"

    def frames(self, latent: Tensor) -> Tensor:
        """See `LatentRgb`."""
        if self.first is not None:
            rest = replace(self, first=None).frames(latent[:, 1:])
            return torch.cat((self.first.frames(latent[:, :1]), rest))
        colours = latent.float().movedim(0, -1) @ self.factors + self.bias
        return colours.add(1).mul(127.5).clamp(0, 255).to(torch.uint8)
