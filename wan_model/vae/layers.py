"""Layers that both VAEs are made of. Parameter names are those of the official checkpoints.

Shape legend: B batch, C channels, T frames, H height, W width (of the current resolution).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .cache import FeatureCache

MKLDNN = torch.backends.mkldnn.is_available()


def cudnn_conv3d_is_avoided(torch_version: str, cudnn_version: int | None) -> bool:
    """Returns whether torch does half-precision 3-D convolutions without cuDNN.

    Torch 2.9 and 2.10 do so with cuDNN 9.10.2 up to 9.15, and take many times the memory.
    """
    major, minor = (int(part) for part in torch_version.split(".")[:2])
    affected_torch = (2, 9) <= (major, minor) <= (2, 10)
    return affected_torch and cudnn_version is not None and 91002 <= cudnn_version < 91500


class Conv3d(nn.Conv3d):
    """3-D convolution that pads height and width with zeros; frames in front come from the cache.

    An input with fewer frames than the kernel is the start of a video: the kernel's older taps
    would only meet zeros and are left out.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int, int],
        stride: tuple[int, int, int] = (1, 1, 1),
    ) -> None:
        self.zeros = (0, kernel_size[1] // 2, kernel_size[2] // 2)
        super().__init__(in_channels, out_channels, kernel_size, stride, self.zeros)
        self.calls_cudnn = cudnn_conv3d_is_avoided(
            torch.__version__, torch.backends.cudnn.version()
        )

    def forward(self, input: Tensor) -> Tensor:
        """Returns (B, out_channels, T', H', W') for (B, in_channels, T, H, W)."""
        weight = self.weight[:, :, -input.shape[2] :]
        settings = (self.zeros, self.stride, self.dilation, self.groups)
        if input.dtype == torch.float32 and input.device.type == "cpu" and MKLDNN:
            # F.conv3d takes a loop over frames, 9 times slower, for one small video.
            return torch.mkldnn_convolution(input, weight, self.bias, *settings)
        if self.calls_cudnn and input.is_cuda and input.dtype != torch.float32:
            y = torch.cudnn_convolution(input, weight, *settings, False, False, True)
            return y if self.bias is None else y.add_(self.bias.view(-1, 1, 1, 1))
        return F.conv3d(input, weight, self.bias, self.stride, self.zeros)


def conv3x3x3(in_channels: int, out_channels: int) -> Conv3d:
    """Returns the causal convolution over 3 frames and 3 x 3 pixels."""
    return Conv3d(in_channels, out_channels, (3, 3, 3))


def conv1x1x1(in_channels: int, out_channels: int) -> Conv3d:
    """Returns the convolution of each pixel on its own."""
    return Conv3d(in_channels, out_channels, (1, 1, 1))


class RMSNorm(nn.Module):
    """Divides by the root mean square over channels and multiplies by gamma; computed in fp32."""

    def __init__(self, channels: int, spatial_dims: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, *[1] * spatial_dims))

    def forward(self, x: Tensor) -> Tensor:
        """Returns the shape and dtype of x (B, C, ...)."""
        gamma = self.gamma.flatten()
        return F.rms_norm(x.movedim(1, -1), gamma.shape, gamma, eps=1e-24).movedim(-1, 1)


class ResidualBlock(nn.Module):
    """Twice norm, SiLU and causal convolution, added to the input."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.residual = nn.ModuleDict(
            {
                "0": RMSNorm(in_channels, 3),
                "2": conv3x3x3(in_channels, out_channels),
                "3": RMSNorm(out_channels, 3),
                "6": conv3x3x3(out_channels, out_channels),
            }
        )
        keeps_width = in_channels == out_channels
        self.shortcut = nn.Identity() if keeps_width else conv1x1x1(in_channels, out_channels)

    def forward(self, x: Tensor, cache: FeatureCache) -> Tensor:
        """Returns (B, out_channels, T, H, W) for x (B, in_channels, T, H, W)."""
        h = x
        for norm, conv in (("0", "2"), ("3", "6")):
            # One statement per step: each step's input is freed before the next allocates.
            h = F.silu(self.residual[norm](h), inplace=True)
            h = cache.prepend(self.residual[conv], h)
            h = self.residual[conv](h)
        return h.add_(self.shortcut(x))


class Head(nn.ModuleDict):
    """Norm, SiLU and the last causal convolution."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__({"0": RMSNorm(in_channels, 3), "2": conv3x3x3(in_channels, out_channels)})

    def forward(self, x: Tensor, cache: FeatureCache) -> Tensor:
        """Returns (B, out_channels, T, H, W) for x (B, in_channels, T, H, W)."""
        x = F.silu(self["0"](x), inplace=True)
        x = cache.prepend(self["2"], x)
        return self["2"](x)


class AttentionBlock(nn.Module):
    """Attention with one head among the pixels of a frame, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = RMSNorm(channels, 2)
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the shape of x (B, C, T, H, W)."""
        frames = to_frames(x)
        qkv = self.to_qkv(self.norm(frames)).flatten(2).mT.unsqueeze(1)
        h = F.scaled_dot_product_attention(*qkv.chunk(3, dim=-1))
        h = self.proj(h.squeeze(1).mT.view_as(frames))
        return x + from_frames(h, batch=x.shape[0])


class Middle(nn.ModuleList):
    """Residual block, attention, residual block at the lowest resolution."""

    def __init__(self, channels: int) -> None:
        block, attention = ResidualBlock(channels, channels), AttentionBlock(channels)
        super().__init__([block, attention, ResidualBlock(channels, channels)])

    def forward(self, x: Tensor, cache: FeatureCache) -> Tensor:
        """Returns the shape of x (B, C, T, H, W)."""
        x = self[0](x, cache)
        x = self[1](x)
        return self[2](x, cache)


class Downsample(nn.Module):
    """Halves height and width, and with `time` pairs of frames after the first."""

    def __init__(self, channels: int, *, time: bool) -> None:
        super().__init__()
        self.resample = nn.ModuleDict({"1": nn.Conv2d(channels, channels, 3, stride=2)})
        self.time_conv = Conv3d(channels, channels, (3, 1, 1), (2, 1, 1)) if time else None

    def forward(self, x: Tensor, cache: FeatureCache) -> Tensor:
        """Returns (B, C, T', H/2, W/2) for x (B, C, T, H, W); T' is T, or with `time` T/2."""
        frames = F.pad(to_frames(x), (0, 1, 0, 1))
        x = from_frames(self.resample["1"](frames), batch=x.shape[0])
        if self.time_conv is None:
            return x
        padded = cache.prepend(self.time_conv, x, frames=1)
        return x if cache.first else self.time_conv(padded)


class Upsample(nn.Module):
    """Doubles height and width, and with `time` every frame after the first."""

    def __init__(self, in_channels: int, out_channels: int, *, time: bool) -> None:
        super().__init__()
        self.resample = nn.ModuleDict({"1": nn.Conv2d(in_channels, out_channels, 3, padding=1)})
        self.time_conv = Conv3d(in_channels, 2 * in_channels, (3, 1, 1)) if time else None

    def forward(self, x: Tensor, cache: FeatureCache) -> Tensor:
        """Returns (B, C_out, T', 2H, 2W) for x (B, C_in, T, H, W); T' is T, or with `time` 2T."""
        if self.time_conv is not None and not cache.first:
            x = cache.prepend(self.time_conv, x)
            x = self.time_conv(x).unflatten(1, (2, -1)).movedim(1, 3).flatten(2, 3)
        frames = F.interpolate(to_frames(x), scale_factor=2.0, mode="nearest-exact")
        return from_frames(self.resample["1"](frames), batch=x.shape[0])


def to_frames(x: Tensor) -> Tensor:
    """Returns (B T, C, H, W) for x (B, C, T, H, W)."""
    return x.movedim(2, 1).flatten(0, 1)


def from_frames(frames: Tensor, batch: int) -> Tensor:
    """Returns (B, C, T, H, W) for frames (B T, C, H, W)."""
    return frames.unflatten(0, (batch, -1)).movedim(1, 2)
