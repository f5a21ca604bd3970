"""Tiny autoencoders for rough videos in a second: TAEHV, and LightTAE of the same structure.

They work on the latents of the full VAEs. Each frame goes through 2-D convolutions; time is known
only to memory blocks, which see the frame before. Structure and key names: `taehv.py` of
madebyollin/taehv.

Shape legend: B batch, T frames (at the current rate), C channels, H height, W width.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import VaeConfig
from ..errors import SettingsError
from .peak_memory import Operation
from .wan_vae import RGB, WanVae

Family = Literal["TAEHV", "LightTAE"]

CHUNK = 4
"""Frames of video per latent frame."""

ELEMENTS_PER_PIXEL = {"encode": 7.4, "decode": 6.7}
"""Peak of live elements per pixel of the networks and unit of width, memories included.

Counted on a CPU with the released widths of 48 channels, plus 5 %. Those of 16 channels have a
fifth less, which leaves room for what kernels of a GPU take beside their tensors.
"""


@dataclass(frozen=True, kw_only=True)
class PreviewVaeConfig(VaeConfig):
    """Sizes of a preview VAE, read from a file. All of them are widths but `family`.

    `encoder_dim` is 0 if the file has no encoder, 64 in every released model. `decoder_dim` is
    the width of the last convolution, 64 as well.
    """

    stage_dims: tuple[int, int, int]
    """Widths of the decoder's stages: 256, 128 and 64 in every released model."""
    family: Family
    """Whose latents it takes: the transformer's (TAEHV), or the full VAE's own (LightTAE)."""

    @property
    def normalized(self) -> bool:
        """Whether its latents are those of the transformer, with mean 0 and deviation 1."""
        return self.family == "TAEHV"


def estimate_preview_bytes(
    config: PreviewVaeConfig, operation: Operation, height: int, width: int, dtype: torch.dtype
) -> int:
    """Returns the memory that a pass over one video of any length needs on the device.

    Without the weights, and without the video and the latent themselves.

    Args:
        config: sizes of the VAE.
        operation: "encode" or "decode".
        height: pixels of the video.
        width: likewise.
        dtype: of the weights.
    """
    dim = config.encoder_dim if operation == "encode" else config.decoder_dim
    pixels = height * width / config.patch_size**2
    return int(ELEMENTS_PER_PIXEL[operation] * dim * pixels * dtype.itemsize)


class FrameMemory:
    """The last frame that each memory block has seen, for one pass over a batch of videos."""

    def __init__(self, batch: int) -> None:
        self._batch = batch
        self._last: dict[nn.Module, Tensor] = {}

    def before(self, block: nn.Module, frames: Tensor) -> Tensor:
        """Returns the frame before each of `frames`, and remembers the last; before all is zero.

        Args:
            block: the block whose input `frames` is.
            frames: (B T, C, H, W).
        """
        x = frames.unflatten(0, (self._batch, -1))
        last = self._last.get(block)
        last = torch.zeros_like(x[:, :1]) if last is None else last
        # A copy, because a view would keep all of `frames` alive until the next chunk.
        self._last[block] = x[:, -1:].clone()
        return torch.cat([last, x[:, :-1]], dim=1).flatten(0, 1)


class MemoryBlock(nn.Module):
    """Three convolutions of a frame and the one before it, added to the frame."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.ModuleDict(
            {"0": conv3x3(2 * dim, dim), "2": conv3x3(dim, dim), "4": conv3x3(dim, dim)}
        )

    def forward(self, x: Tensor, memory: FrameMemory) -> Tensor:
        """Returns the shape of x (B T, C, H, W)."""
        h = torch.cat([x, memory.before(self, x)], dim=1)
        h = F.relu(self.conv["0"](h), inplace=True)
        h = F.relu(self.conv["2"](h), inplace=True)
        return F.relu(self.conv["4"](h).add_(x), inplace=True)


class Merge(nn.Module):
    """Makes one frame of `frames` consecutive ones."""

    def __init__(self, dim: int, frames: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim * frames, dim, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B T / frames, C, H, W) for x (B T, C, H, W)."""
        return self.conv(x.reshape(-1, self.conv.in_channels, *x.shape[2:]))


class Grow(nn.Module):
    """Makes `frames` consecutive frames of each."""

    def __init__(self, dim: int, frames: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim * frames, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Returns (B T frames, C, H, W) for x (B T, C, H, W)."""
        return self.conv(x).reshape(-1, *x.shape[1:])


class PreviewEncoder(nn.ModuleDict):
    """Pixels to latents. Layers have their official numbers; those without weights are left out."""

    def __init__(self, in_channels: int, dim: int, z_dim: int) -> None:
        layers: dict[str, nn.Module] = {"0": conv3x3(in_channels, dim), "17": conv3x3(dim, z_dim)}
        for first, frames in ((2, 2), (7, 2), (12, 1)):
            layers[f"{first}"] = Merge(dim, frames)
            layers[f"{first + 1}"] = conv3x3(dim, dim, stride=2, bias=False)
            layers |= {f"{first + index}": MemoryBlock(dim) for index in (2, 3, 4)}
        super().__init__(layers)

    def forward(self, x: Tensor, memory: FrameMemory) -> Tensor:
        """Returns one latent frame (B, z, H/8, W/8) for four frames x (B 4, C, H, W)."""
        # At full resolution two frames at a time, which halves the peak of memory.
        pairs = [self["2"](F.relu(self["0"](pair), inplace=True)) for pair in x.split(2)]
        x = self._stage(2, torch.cat(pairs), memory)
        x = self._stage(7, self["7"](x), memory)
        x = self._stage(12, self["12"](x), memory)
        return self["17"](x)

    def _stage(self, first: int, x: Tensor, memory: FrameMemory) -> Tensor:
        x = self[f"{first + 1}"](x)
        for index in (2, 3, 4):
            x = self[f"{first + index}"](x, memory)
        return x


class PreviewDecoder(nn.ModuleDict):
    """Latents to pixels. Layers have their official numbers; those without weights are left out.

    A frame is enlarged after `Grow`, not before as in the official code: a convolution of single
    pixels gives the same on either side, with a quarter of the work.
    """

    def __init__(
        self, z_dim: int, stage_dims: tuple[int, int, int], dim: int, out_channels: int
    ) -> None:
        layers: dict[str, nn.Module] = {"1": conv3x3(z_dim, stage_dims[0])}
        widths = (*stage_dims, dim)
        for stage, (first, frames) in enumerate(((3, 1), (9, 2), (15, 2))):
            layers |= {f"{first + index}": MemoryBlock(widths[stage]) for index in (0, 1, 2)}
            layers[f"{first + 4}"] = Grow(widths[stage], frames)
            layers[f"{first + 5}"] = conv3x3(widths[stage], widths[stage + 1], bias=False)
        layers["22"] = conv3x3(dim, out_channels)
        super().__init__(layers)

    def forward(self, z: Tensor, memory: FrameMemory) -> Tensor:
        """Returns what `head` makes four frames of, (B 4, C, 4H, 4W), for z (B, z, H, W)."""
        x = F.relu(self["1"](3 * torch.tanh(z / 3)), inplace=True)
        x = self._stage(3, x, memory)
        x = self._stage(9, self["8"](enlarged(x)), memory)
        return self._stage(15, self["14"](enlarged(x)), memory)

    def head(self, x: Tensor) -> Tensor:
        """Returns frames (B, out_channels, 2H, 2W) for x (B, C, H, W)."""
        return self["22"](F.relu(self["20"](enlarged(x)), inplace=True))

    def _stage(self, first: int, x: Tensor, memory: FrameMemory) -> Tensor:
        for index in (0, 1, 2):
            x = self[f"{first + index}"](x, memory)
        return self[f"{first + 4}"](x)


class PreviewVae(WanVae):
    """A tiny VAE in the place of a full one: same calls, same latents, same range of pixels."""

    config: PreviewVaeConfig

    def __init__(self, config: PreviewVaeConfig) -> None:
        super().__init__(config)
        z_dim, pixel_dim = config.z_dim, RGB * config.patch_size**2
        dim = config.encoder_dim
        self.encoder = PreviewEncoder(pixel_dim, dim, z_dim) if dim else None
        self.decoder = PreviewDecoder(z_dim, config.stage_dims, config.decoder_dim, pixel_dim)

    @torch.no_grad()
    def _encode_chunks(
        self, video: Tensor, normalized: bool, tick: Callable[[], None]
    ) -> Iterator[Tensor]:
        """Yields fp32 (B, z, 1, H', W') for each four frames; the last frame is repeated."""
        if self.encoder is None:
            raise SettingsError(
                "This preview VAE cannot encode. Got a file with a decoder only, need one with an "
                "encoder. Use the full VAE for images."
            )
        memory = FrameMemory(video.shape[0])
        for start in range(0, video.shape[2], CHUNK):
            tick()
            chunk = video[:, :, start : start + CHUNK].to(self.device, self.dtype)
            repeats = [chunk[:, :, -1:]] * (CHUNK - chunk.shape[2])
            frames = to_frames(torch.cat([chunk, *repeats], dim=2).add_(1).div_(2))
            pixels = F.pixel_unshuffle(frames, self.config.patch_size)
            z = self.encoder(pixels, memory).float().unsqueeze(2)
            yield self._rescaled(z, self.config.normalized, normalized)

    @torch.no_grad()
    def _decode_chunks(
        self, latent: Tensor, normalized: bool, tick: Callable[[], None]
    ) -> Iterator[Tensor]:
        """Yields (B, 3, 1, H, W) for the first latent frame, (B, 3, 4, H, W) for each other."""
        memory = FrameMemory(latent.shape[0])
        for index in range(latent.shape[2]):
            tick()
            z = latent[:, :, index : index + 1].to(self.device, torch.float32)
            z = self._rescaled(z, normalized, self.config.normalized).squeeze(2)
            frames = self.decoder(z.to(self.dtype), memory).unflatten(0, (-1, CHUNK)).unbind(1)
            # The first latent frame is the video's first frame: the last of its four.
            kept = frames if index else frames[-1:]
            pixels = [F.pixel_shuffle(self.decoder.head(x), self.config.patch_size) for x in kept]
            yield torch.stack(pixels, dim=2).mul_(2).sub_(1)

    def _rescaled(self, z: Tensor, is_normalized: bool, wanted: bool) -> Tensor:
        """Returns latents (B, z, 1, H', W') fp32 normalised, or in the full VAE's own scale."""
        if is_normalized == wanted:
            return z
        mean, std = self._latent_statistics()
        return (z - mean) / std if wanted else z * std + mean


def build_preview_vae(config: PreviewVaeConfig) -> PreviewVae:
    """Returns a VAE with the official state-dict keys; works under `torch.device("meta")`."""
    return PreviewVae(config).eval().requires_grad_(False)


def conv3x3(in_dim: int, out_dim: int, *, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    """Returns the convolution over 3 x 3 pixels of single frames."""
    return nn.Conv2d(in_dim, out_dim, 3, stride, padding=1, bias=bias)


def to_frames(x: Tensor) -> Tensor:
    """Returns (B T, C, H, W) for x (B, C, T, H, W)."""
    return x.movedim(2, 1).flatten(0, 1)


def enlarged(x: Tensor) -> Tensor:
    """Returns (B T, C, 2H, 2W), every pixel of x (B T, C, H, W) repeated."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")
