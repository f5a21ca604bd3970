"""The Wan VAE: video to latent and back, one latent frame at a time.

Shape legend: B batch, T frames of video, H and W pixels, z latent channels; a latent is
(B, z, (T - 1) / 4 + 1, H / stride, W / stride).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count, product

import torch
from torch import Tensor, nn

from .. import shapes
from ..config import VaeConfig
from ..errors import SettingsError, ShapeError
from . import wan21, wan22
from .tiling import Tiling, plan_tiles
from .transfer import Outbox

OnChunk = Callable[[int, int], None]
"""Called with (chunks done, chunks in all) before each chunk; may raise to interrupt.

A GPU may then still be at work on the chunk before.
"""

RGB = 3


class WanVae(nn.Module, ABC):
    """A VAE of Wan2.1 or Wan2.2, full or for previews, with the dtype and device of its weights.

    A video goes through as its first frame, then four frames at a time; one latent frame each.
    """

    def __init__(self, config: VaeConfig) -> None:
        """Makes no networks; they are the subclass's.

        Raises:
            SettingsError: if the latent channels do not fit the variant.
        """
        super().__init__()
        self.config = config
        variant = wan22 if config.variant == "wan2.2" else wan21
        self.latent_mean, self.latent_std = variant.LATENT_MEAN, variant.LATENT_STD
        if config.z_dim != len(self.latent_mean):
            raise SettingsError(
                f"The number of latent channels does not fit the VAE. Got {config.z_dim}, need "
                f"{len(self.latent_mean)} for {config.variant}. Check the file the sizes are from."
            )

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights and of the computation."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are and the computation happens."""
        return next(self.parameters()).device

    def arrange_weights(self) -> None:
        """Lays weights out as its convolutions want them in memory.

        Names, shapes and results stay the same. To be called after weights have been put in place
        of those that the VAE was built with.
        """

    @torch.no_grad()
    def encode(
        self,
        video: Tensor,
        *,
        normalized: bool = True,
        tiling: Tiling | None = None,
        on_chunk: OnChunk | None = None,
    ) -> Tensor:
        """Returns the mode of the posterior, fp32, on the device of `video`.

        Args:
            video: (B, 3, 4n+1, H, W) in [-1, 1] on any device; moved chunk by chunk.
            normalized: subtract the model's mean and divide by its standard deviation, as the
                transformer expects. False leaves them in the encoder's own scale.
            tiling: spatial tiles, or None to encode whole frames.
            on_chunk: called before each chunk of each tile.

        Raises:
            ShapeError: for a frame count or size that the VAE would have to cut.
        """
        self._check_video(video)
        stride = self.config.spatial_stride
        batch, _, frames, height, width = video.shape
        size = (shapes.latent_frames(frames), height // stride, width // stride)
        shape = (batch, self.config.z_dim, *size)
        latent = torch.zeros(shape, dtype=torch.float32, device=video.device)
        tiles = plan_tiles(size[1:], tiling, stride=stride, scale=1, device=self.device)
        tick = _ticker(on_chunk, batch * len(tiles) * size[0])
        outbox = Outbox(latent.device)
        for item, tile in product(range(batch), tiles):
            part = tile.crop(video[item : item + 1], stride)
            for index, z in enumerate(self._encode_chunks(part, normalized, tick)):
                place = latent[item : item + 1, :, index : index + 1]
                outbox.put(tile.weighted(z), partial(tile.blend, out=place, scale=1))
        outbox.empty()
        return latent

    @torch.no_grad()
    def decode(
        self,
        latent: Tensor,
        *,
        normalized: bool = True,
        out: Tensor | None = None,
        tiling: Tiling | None = None,
        on_chunk: OnChunk | None = None,
    ) -> Tensor:
        """Returns the video (B, 3, T, H, W), about [-1, 1] but not clamped.

        Args:
            latent: (B, z, T', H', W') on any device; moved frame by frame.
            normalized: whether `latent` is what `encode` returns with `normalized`.
            out: where the frames are written as they are finished: any device and float dtype.
                None allocates it with the device and dtype of `latent`.
            tiling: spatial tiles, or None to decode whole frames.
            on_chunk: called before each latent frame of each tile.

        Raises:
            ShapeError: for another number of channels, or an `out` of another shape.
        """
        self._check_latent(latent)
        stride = self.config.spatial_stride
        batch, _, latent_frames, height, width = latent.shape
        frames = shapes.video_frames(latent_frames)
        shape = (batch, RGB, frames, height * stride, width * stride)
        video = _video_buffer(shape, latent, out)
        tiles = plan_tiles((height, width), tiling, stride=stride, scale=stride, device=self.device)
        if tiling is not None:
            video.zero_()
        tick = _ticker(on_chunk, batch * len(tiles) * latent_frames)
        outbox = Outbox(video.device)
        for item, tile in product(range(batch), tiles):
            part = tile.crop(latent[item : item + 1], 1)
            start = 0
            for pixels in self._decode_chunks(part, normalized, tick):
                stop = start + pixels.shape[2]
                place = video[item : item + 1, :, start:stop]
                outbox.put(tile.weighted(pixels), partial(tile.blend, out=place, scale=stride))
                start = stop
        outbox.empty()
        return video

    def decode_frames(
        self, latent: Tensor, *, normalized: bool = True, on_chunk: OnChunk | None = None
    ) -> Iterator[Tensor]:
        """Yields the frames of each latent frame: one (B, 3, 1, H, W), then (B, 3, 4, H, W) each.

        They are exactly those of `decode`, in the dtype and on the device of the weights. The
        batch goes through together, in as much more memory.

        Args:
            latent: as for `decode`.
            normalized: as for `decode`.
            on_chunk: called before each latent frame.

        Raises:
            ShapeError: for another number of channels.
        """
        self._check_latent(latent)
        return self._decode_chunks(latent, normalized, _ticker(on_chunk, latent.shape[2]))

    @abstractmethod
    def _encode_chunks(
        self, video: Tensor, normalized: bool, tick: Callable[[], None]
    ) -> Iterator[Tensor]:
        """Yields fp32 (B, z, 1, H', W') for the first frame and for each four after it."""

    @abstractmethod
    def _decode_chunks(
        self, latent: Tensor, normalized: bool, tick: Callable[[], None]
    ) -> Iterator[Tensor]:
        """Yields (B, 3, 1, H, W) for the first latent frame, (B, 3, 4, H, W) for each other."""

    def _latent_statistics(self) -> tuple[Tensor, Tensor]:
        """Returns mean and standard deviation, fp32 (z, 1, 1, 1), whatever dtype the VAE has."""
        mean, std = (
            torch.tensor(values, dtype=torch.float32, device=self.device).view(-1, 1, 1, 1)
            for values in (self.latent_mean, self.latent_std)
        )
        return mean, std

    def _check_video(self, video: Tensor) -> None:
        if video.ndim != 5 or video.shape[1] != RGB:
            raise ShapeError(
                f"The video has the wrong shape. Got {tuple(video.shape)}, need "
                "(batch, 3, frames, height, width). Convert the images to RGB, channels second."
            )
        shapes.check_frames(video.shape[2])
        shapes.check_size(video.shape[4], video.shape[3], self.config.spatial_stride)

    def _check_latent(self, latent: Tensor) -> None:
        z_dim = self.config.z_dim
        if latent.ndim != 5 or latent.shape[1] != z_dim or 0 in latent.shape:
            raise ShapeError(
                f"The latent does not fit the {self.config.variant} VAE. Got "
                f"{tuple(latent.shape)}, need (batch, {z_dim}, frames, height, width). Use the "
                "VAE of the model that made it: Wan 2.1 for 14B (16 channels), Wan 2.2 for 5B (48)."
            )


def _ticker(on_chunk: OnChunk | None, total: int) -> Callable[[], None]:
    """Returns a function that reports one more chunk each time it is called."""
    if on_chunk is None:
        return lambda: None
    done = count()
    return lambda: on_chunk(next(done), total)


def _video_buffer(shape: tuple[int, ...], latent: Tensor, out: Tensor | None) -> Tensor:
    """Returns `out` after checking its shape, or a new buffer like `latent`."""
    if out is None:
        return torch.empty(shape, device=latent.device, dtype=latent.dtype)
    if out.shape != shape:
        raise ShapeError(
            f"The output buffer has the wrong shape. Got {tuple(out.shape)}, need {shape}. "
            "Allocate it with the size that the latent decodes to."
        )
    return out
