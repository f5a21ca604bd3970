"""The full Wan2.1 and Wan2.2 VAEs.

Shape legend: B batch, T frames of video, H and W pixels, z latent channels.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial

import torch
from einops import rearrange
from torch import Tensor

from ..compile_ahead import CompiledAhead
from ..config import VaeConfig
from . import wan21, wan22
from .borders import WHOLE, Borders
from .coders import Decoder, Encoder
from .feature_cache import FeatureCache
from .kernel_choice import TRITON_DTYPES, fastest_pointwise, run_trial
from .layers import Conv1x1x1
from .pointwise import Pointwise
from .transfer import send
from .wan_vae import RGB, WanVae


class FullVae(WanVae):
    """The networks of the official checkpoints.

    Causal convolutions carry the past over exactly, so that streaming is not an approximation.
    """

    def __init__(self, config: VaeConfig) -> None:
        super().__init__(config)
        self._ahead = CompiledAhead()
        variant = wan22 if config.variant == "wan2.2" else wan21
        pixel_dim, z_dim = RGB * config.patch_size**2, config.z_dim
        encoder_dim, decoder_dim = config.encoder_dim, config.decoder_dim
        down, up = variant.down_stages(encoder_dim), variant.up_stages(decoder_dim)
        self.encoder = Encoder(pixel_dim, encoder_dim, down, 2 * z_dim)
        self.conv1 = Conv1x1x1(2 * z_dim, 2 * z_dim)
        self.conv2 = Conv1x1x1(z_dim, z_dim)
        self.decoder = Decoder(z_dim, decoder_dim, up, pixel_dim)

    def arrange_weights(self) -> None:
        """Lays weights out in the order of windows: (O, kh, kw, kt, C) in memory.

        Without it every convolution copies its weight.
        """
        for parameter in self.parameters():
            if parameter.ndim == 5:
                taps = parameter.data.permute(0, 3, 4, 2, 1).contiguous()
                parameter.data = taps.permute(0, 4, 3, 1, 2)

    def compile_ahead(
        self, device: torch.device, kept: Callable[[], AbstractContextManager[object]]
    ) -> CompiledAhead:
        """Has a thread compile the kernels of decoding and encoding, where that can be done.

        Args:
            device: that will compute.
            kept: entered meanwhile by the thread, and decides where compiled kernels are kept.
        """
        compile_all = partial(compile_kernels, self.config, self.dtype)
        self._ahead = CompiledAhead.begun(compile_all, device, kept)
        return self._ahead

    def _pointwise(self) -> Pointwise:
        self._ahead.wait()
        return fastest_pointwise(self.device, self.dtype)

    def encode_part(
        self, video: Tensor, borders: Borders, *, normalized: bool = True
    ) -> Iterator[Tensor]:
        """Yields the latent of each chunk for some rows of a video.

        Args:
            video: (B, 3, 4n+1, H, W), H a multiple of the stride.
            borders: knows the rows beyond.
            normalized: as of `encode`.
        """
        return self._encode_chunks(video, normalized, _nothing, borders)

    def decode_part(
        self, latent: Tensor, borders: Borders, *, normalized: bool = True
    ) -> Iterator[Tensor]:
        """Yields the frames of each latent frame for some rows of a latent.

        Args:
            latent: (B, z, T', H', W').
            borders: knows the rows beyond.
            normalized: as of `decode`.
        """
        return self._decode_chunks(latent, normalized, _nothing, borders)

    @torch.no_grad()
    def _encode_chunks(
        self,
        video: Tensor,
        normalized: bool,
        tick: Callable[[], None],
        borders: Borders = WHOLE,
    ) -> Iterator[Tensor]:
        """Yields fp32 (B, z, 1, H', W') for the first frame and for each four after it."""
        cache = FeatureCache(self._pointwise(), borders)
        patch, z_dim = self.config.patch_size, self.config.z_dim
        mean, std = self._latent_statistics()
        for start in range(-3, video.shape[2], 4):
            tick()
            frames = send(video[:, :, max(0, start) : start + 4], self.device, self.dtype)
            x = rearrange(frames, "b c t (h q) (w r) -> b (c r q) t h w", q=patch, r=patch)
            z = self.conv1(self.encoder(x, cache))[:, :z_dim].float()
            yield (z - mean) / std if normalized else z
            cache.first = False

    @torch.no_grad()
    def _decode_chunks(
        self,
        latent: Tensor,
        normalized: bool,
        tick: Callable[[], None],
        borders: Borders = WHOLE,
    ) -> Iterator[Tensor]:
        """Yields (B, 3, 1, H, W) for the first latent frame, (B, 3, 4, H, W) for each other."""
        cache = FeatureCache(self._pointwise(), borders)
        patch = self.config.patch_size
        mean, std = self._latent_statistics()
        for index in range(latent.shape[2]):
            tick()
            z = send(latent[:, :, index : index + 1], self.device, torch.float32)
            z = z * std + mean if normalized else z
            x = self.decoder(self.conv2(z.to(self.dtype)), cache)
            yield rearrange(x, "b (c r q) t h w -> b c t (h q) (w r)", q=patch, r=patch)
            cache.first = False


@torch.no_grad()
def compile_kernels(config: VaeConfig, dtype: torch.dtype) -> None:
    """Compiles what decoding and encoding need on the current GPU; runs nothing there.

    May fail in any way that Triton and its tools may.
    """
    if dtype not in TRITON_DTYPES:
        return
    from .triton_kernels import TritonPointwise

    kernels, meta = TritonPointwise(), torch.device("meta")
    for _ in run_trial(kernels, meta, dtype):
        pass
    with meta:
        vae = build_vae(config).to(dtype)
    for is_first in (True, False):
        cache = FeatureCache(kernels)
        cache.first = is_first
        # Kernels are the same for all sizes, and for encoding.
        vae.decoder(torch.empty(1, config.z_dim, 1, 4, 4, dtype=dtype, device=meta), cache)


def _nothing() -> None:
    """Is done before a chunk that nobody counts."""


def build_vae(config: VaeConfig) -> FullVae:
    """Returns a VAE with the official state-dict keys; works under `torch.device("meta")`.

    Raises:
        SettingsError: if the latent channels do not fit the variant.
    """
    vae = FullVae(config).eval().requires_grad_(False)
    vae.arrange_weights()
    return vae
