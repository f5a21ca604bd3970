"""A preview VAE for the moving preview, where a file of one lies in ComfyUI's folders."""

import logging
import time

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from ....wan_model.errors import WanError
from ....wan_model.loading import load_vae
from ....wan_model.vae import WanVae
from ..host import runtime

logger = logging.getLogger(__name__)

FOLDERS = ("vae_approx", "vae")
NAMES = {16: ("lighttaew2_1", "taew2_1"), 48: ("lighttaew2_2", "taew2_2")}
"""By latent channels, the better ones first."""
LONGEST_SIDE = {16: 52, 48: 26}
"""Latent pixels that are decoded: 416 pixels of video."""
MOST_SECONDS = 0.3
"""Of a decoding; beyond it previews would be rarer than every half a minute."""
MOST_VALUES_ON_CPU = 1 << 16
"""Of a latent; a processor has other things to do while it samples."""


class PreviewDecoder:
    """Decodes one frame per latent frame, beside what the device computes."""

    def __init__(self, folder: str, name: str, device: torch.device) -> None:
        self.folder, self.name, self.device = folder, name, device
        self.vae: WanVae | None = None
        self.warm = False
        self.failed = False
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def take(self, latent: Tensor) -> Tensor | None:
        """Returns a small copy of a latent [C, T, H, W] to decode; None if it is not to be."""
        if self.vae is None:
            return None
        longest = max(latent.shape[-2:])
        scale = min(1.0, LONGEST_SIDE[latent.shape[0]] / longest)
        height, width = (max(1, round(side * scale)) for side in latent.shape[-2:])
        small = (
            adaptive_avg_pool2d(latent.float(), (height, width))
            if scale < 1
            else latent.float().clone()
        )
        if latent.device.type == "cpu" and small.numel() > MOST_VALUES_ON_CPU:
            return None
        return small

    def load(self) -> None:
        """Loads the file, once."""
        if self.vae is not None or self.failed:
            return
        try:
            path = runtime.model_path(self.folder, self.name)
            self.vae = load_vae(path, device=self.device, dtype=_dtype(self.device))
        except (WanError, MemoryError, OSError, RuntimeError) as error:
            logger.info("%s gives no preview: %s", self.name, error)
            self._give_up()

    def frames(self, latent: Tensor) -> Tensor | None:
        """Returns uint8 [T, H, W, 3] on the CPU; None where it fails."""
        if self.vae is None:
            return None
        began = time.monotonic()
        try:
            with torch.no_grad(), torch.cuda.stream(self.stream):
                video = self.vae.decode(latent[None])[0, :, ::4].float()
                frames = video.movedim(0, -1).add(1).mul(127.5).clamp(0, 255).to(torch.uint8).cpu()
        except (WanError, MemoryError, OSError, RuntimeError) as error:
            logger.info("%s gives no preview: %s", self.name, error)
            self._give_up()
            return None
        slow = time.monotonic() - began > MOST_SECONDS
        if slow and self.warm:
            self._give_up()
        self.warm = True
        return frames

    def _give_up(self) -> None:
        self.failed, self.vae = True, None


def find_decoder(channels: int, device: torch.device) -> PreviewDecoder | None:
    """Returns the preview VAE of latents, if there is a file; it is loaded when it is needed."""
    for wanted in NAMES.get(channels, ()):
        for folder in FOLDERS:
            for name in runtime.model_names(folder):
                if name.lower().rsplit("/", 1)[-1].startswith(wanted):
                    return PreviewDecoder(folder, name, device)
    return None


def _dtype(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "cpu" else torch.float16
