"""A small looping video of the latents while they are sampled, for the graph editor.

It is made on the CPU in a thread of its own from a few numbers per latent pixel, and left out
rather than queued while an earlier one is being made, or where it would cost more than 1 % of the
run. Clients without the editor's extension get ComfyUI's own previews.
"""

import base64
import io
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from PIL import Image
from torch import Tensor

from ....wan_model.vae.latent_rgb import ColourMap, LatentRgb
from ....wan_model.vae.tiny_latent_rgb import tiny_latent_rgb
from ..host.listener import Listener, listener
from ..model.load_models import CHECKPOINT
from .preview_decoder import PreviewDecoder, find_decoder

logger = logging.getLogger(__name__)

EVENT = "wanduet.preview"
SHARE = 0.01
"""Of the run's time that previews may take, of either thread."""
FRAMES_PER_SECOND = {16: 4, 48: 6}
"""Of latents, by their channels: four frames of the video each."""
MAX_FRAMES = 81
LONGEST_SIDE = 256
"""Pixels; beyond it every second latent pixel is shown, and so on."""
QUALITY = 55


@dataclass(frozen=True)
class Snapshot:
    """Frames on their way from the device, and when they are there."""

    frames: Tensor
    """uint8 [T, H, W, 3] on the CPU."""
    latent: Tensor | None
    """For the preview VAE: small, on the device."""
    ready: Callable[[], Any]


class LatentVideo:
    """Makes previews of one run and sends them to the client that queued it."""

    def __init__(self, colours: LatentRgb, decoder: PreviewDecoder | None, page: Listener) -> None:
        self.colours, self.decoder = colours, decoder
        self.page = page
        self.rate = FRAMES_PER_SECOND.get(len(colours.factors), 4)
        self.busy = threading.Lock()
        self.sending = threading.Lock()
        self.ended = False
        self.next_time = 0.0
        self.step_share = 0.0
        self._map: ColourMap | None = None

    def offer(self, denoised: Tensor) -> None:
        """Takes the latest estimate [B, C, T, H, W], if there is time for it."""
        began = time.monotonic()
        if began < self.next_time or not self.busy.acquire(blocking=False):
            return
        busy = time.thread_time()
        try:
            snapshot = self._snapshot(denoised[0])
            threading.Thread(target=self._make, args=(snapshot, began), daemon=True).start()
        except (MemoryError, RuntimeError):
            # A device or system without room for it: a preview must not end a run.
            self.next_time = float("inf")
            logger.debug("No preview.", exc_info=True)
            self.busy.release()
        # Time of the processor: waiting for what the device has yet to do costs the run nothing.
        self.step_share = time.thread_time() - busy

    def end(self) -> None:
        """Tells the client that the preview is over. To be called whatever the run came to."""
        with self.sending:
            self.ended = True
            self._send({"done": True})

    def _snapshot(self, latent: Tensor) -> Snapshot:
        """Begins to copy small frames to the CPU; the device goes on with its work."""
        stride = max(1, -(-max(latent.shape[-2:]) // LONGEST_SIDE))
        latent = latent[:, :MAX_FRAMES]
        small = None if self.decoder is None else self.decoder.take(latent)
        if self._map is None:
            self._map = self.colours.on(latent.device)
        frames = self._map.frames(latent[:, :, ::stride, ::stride])
        if frames.device.type != "cuda":
            return Snapshot(frames.cpu(), small, lambda: None)
        host = torch.empty(frames.shape, dtype=frames.dtype, pin_memory=True)
        host.copy_(frames, non_blocking=True)
        done = torch.cuda.Event()
        done.record(torch.cuda.current_stream(frames.device))
        return Snapshot(host, small, done.synchronize)

    def _make(self, snapshot: Snapshot, began: float) -> None:
        try:
            snapshot.ready()
            busy, decoding = time.thread_time(), time.monotonic()
            frames = snapshot.frames
            if self.decoder is not None and snapshot.latent is not None:
                decoded = self.decoder.frames(snapshot.latent)
                frames = frames if decoded is None else decoded
            decoding = time.monotonic() - decoding
            data = animation(frames, self.rate)
            cost = self.step_share + max(time.thread_time() - busy, decoding)
            self.next_time = began + cost / SHARE
            height, width = frames.shape[1:3]
            image = "data:image/webp;base64," + base64.b64encode(data).decode()
            with self.sending:
                if not self.ended:
                    self._send({"image": image, "width": width, "height": height})
            if self.decoder is not None and not self.ended:
                self.decoder.load()  # for the next one: the first is not to wait for it
        except (LookupError, MemoryError, OSError, RuntimeError, ValueError):
            self.next_time = float("inf")  # such as a Pillow without WebP
            logger.debug("No preview.", exc_info=True)
        finally:
            self.busy.release()

    def _send(self, data: dict[str, Any]) -> None:
        self.page.send(EVENT, data)


def latent_video(patcher: ModelPatcher) -> LatentVideo | None:
    """Returns the preview of the node that is running; None if its client does not show any."""
    page = listener()
    colours = _colours(patcher)
    if page is None or colours is None:
        return None
    tiny = tiny_latent_rgb(_file_name(patcher), len(colours.factors)) is not None
    decoder = None if tiny else find_decoder(len(colours.factors), patcher.load_device)
    return LatentVideo(colours, decoder, page)


def _file_name(patcher: ModelPatcher) -> str:
    info = patcher.get_attachment(CHECKPOINT)
    return "" if info is None else info.path.name


def _colours(patcher: ModelPatcher) -> LatentRgb | None:
    latents = patcher.model.latent_format
    tiny = tiny_latent_rgb(_file_name(patcher), latents.latent_channels)
    if tiny is not None:
        return tiny
    factors = getattr(latents, "latent_rgb_factors", None)
    if not factors or getattr(latents, "latent_dimensions", 2) != 3:
        return None
    return LatentRgb(factors, getattr(latents, "latent_rgb_factors_bias", None) or (0.0,) * 3)


def animation(frames: Tensor, rate: int) -> bytes:
    """Returns a looping WebP of uint8 frames [T, H, W, 3]."""
    images = [Image.fromarray(frame) for frame in frames.numpy()]
    data = io.BytesIO()
    images[0].save(
        data,
        "WEBP",
        save_all=True,
        append_images=images[1:],
        duration=round(1000 / rate),
        loop=0,
        quality=QUALITY,
        method=0,
    )
    return data.getvalue()
