"""Examples for the transformers: clips encoded by a trained VAE, with captions and conditions.

Shape legend: N clips, T frames, T' latent frames, V captions of each clip, S text tokens.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from wan_model.conditioning import GREY, known_frames_mask
from wan_model.config import Kind
from wan_model.vae import WanVae

from .data import Batch, Clips, generator
from .scenes import Scene
from .tokenizer import Tokenizer
from .vae import encode


@dataclass(frozen=True)
class LatentMaker:
    """Makes groups of examples by number."""

    clips: Clips
    vae: WanVae
    tokenizer: Tokenizer
    kind: Kind
    captions: int
    """V."""
    last_frame_probability: float

    def group(self, number: int, size: int) -> Batch:
        """Returns clips number * size to (number + 1) * size - 1.

        Returns:
            "latent" fp32 (N, C, T', H, W), "tokens" int16 (N, V, S), and for I2V "cond" fp32
            (N, 20, T', H, W).
        """
        return self.encode(number, *self.describe(number, size))

    def describe(self, number: int, size: int) -> tuple[list[Scene], Tensor]:
        """Returns the scenes of a group and their token ids; needs the CPU only."""
        first = number * size
        scenes = self.clips.scenes(first, size)
        texts = [
            self.clips.caption(scene, first + place, variant)
            for place, scene in enumerate(scenes)
            for variant in range(self.captions)
        ]
        return scenes, self.tokenizer.batch(texts).view(size, self.captions, -1)

    def encode(self, number: int, scenes: list[Scene], tokens: Tensor) -> Batch:
        """Returns a group that was described."""
        video = self.clips.render(scenes)
        batch = {"latent": encode(self.vae, video), "tokens": tokens.to(video.device)}
        if self.kind == "i2v":
            batch["cond"] = self.condition(video, self.last_given(number, len(scenes)))
        return batch

    def last_given(self, number: int, size: int) -> Tensor:
        """Returns in which clips of a group the last frame is given as well, bool (N,)."""
        rng = generator(torch.device("cpu"), self.clips.seed, self.clips.split, "last", number)
        given = torch.rand(size, generator=rng) < self.last_frame_probability
        return given.to(self.clips.device)

    def condition(self, video: Tensor, last_given: Tensor) -> Tensor:
        """Returns mask and image channels fp32 (N, 20, T', H, W), as the official code has them.

        Args:
            video: (N, 3, T, H, W) in [-1, 1].
            last_given: bool (N,); the first frame always is given.
        """
        frames = video.shape[2]
        known = torch.full_like(video, 2 * GREY - 1)
        known[:, :, 0] = video[:, :, 0]
        known[last_given, :, -1] = video[last_given, :, -1]
        latent = encode(self.vae, known)
        masks = torch.cat(
            [known_frames_mask(frames, 1, last, *latent.shape[-2:]) for last in (0, 1)]
        )
        return torch.cat((masks.to(latent)[last_given.long()], latent), dim=1)
