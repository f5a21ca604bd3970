"""A VAE whose passes run in other processes, which share its rows."""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from ....wan_model.config import VaeConfig
from ....wan_model.vae import WanVae


class RowPool(Protocol):
    """The processes."""

    def decode(self, file: str, dtype: str, latent: Tensor) -> Sequence[Tensor]:
        """Returns the rows of each process, of a video (1, 3, T, H, W)."""
        ...

    def encode(self, file: str, dtype: str, video: Tensor) -> Tensor:
        """Returns the latent (1, z, T', H', W') of a video (1, 3, 4n+1, H, W)."""
        ...


class RemoteWanVae(WanVae):
    """The networks without weights."""

    def __init__(self, config: VaeConfig, dtype: torch.dtype, file: str, pool: RowPool) -> None:
        super().__init__(config)
        self._dtype, self._file, self._pool = dtype, file, pool

    @property
    def dtype(self) -> torch.dtype:
        """Of the computation."""
        return self._dtype

    @property
    def device(self) -> torch.device:
        """Of what comes in and goes out."""
        return torch.device("cpu")

    @property
    def _dtype_name(self) -> str:
        return str(self._dtype).removeprefix("torch.")

    def _encode_chunks(
        self, video: Tensor, normalized: bool, tick: Callable[[], None]
    ) -> Iterator[Tensor]:
        items = [self._pool.encode(self._file, self._dtype_name, item) for item in video.split(1)]
        latent = torch.cat(items)
        mean, std = self._latent_statistics()
        latent = (latent - mean) / std if normalized else latent
        for z in latent.split(1, dim=2):
            tick()
            yield z

    def _decode_chunks(
        self, latent: Tensor, normalized: bool, tick: Callable[[], None]
    ) -> Iterator[Tensor]:
        mean, std = self._latent_statistics()
        latent = latent.cpu()
        latent = latent * std + mean if normalized else latent
        items = [self._pool.decode(self._file, self._dtype_name, one) for one in latent.split(1)]
        for index in range(latent.shape[2]):
            tick()
            frames = slice(max(0, 4 * index - 3), 4 * index + 1)
            chunk = [torch.cat([part[:, :, frames] for part in parts], dim=3) for parts in items]
            yield torch.cat(chunk)
