"""What goes through the blocks, and the checks of what comes into the model."""

from dataclasses import dataclass

from torch import Tensor

from ..attention import AttentionFn
from ..config import DiTConfig
from ..errors import ShapeError
from .attention_layers import AllTokens, TextAttention, VideoAttention, attend_to_text
from .rope import Rotation
from .timesteps import TimestepRows
from .tokens import Residual


@dataclass(frozen=True)
class BlockInputs:
    """Everything a block needs beside the residual stream; the same for all blocks."""

    time: TimestepRows
    """Six vectors per distinct timestep."""
    rotation: Rotation
    text: Tensor
    """Embedded text (B, 512, dim) in the blocks' compute dtype."""
    attend: AttentionFn
    residual: Residual
    text_attention: TextAttention = attend_to_text
    video_attention: VideoAttention = AllTokens


def check_inputs(
    config: DiTConfig, latent: Tensor, timestep: Tensor, text: Tensor, cond: Tensor | None
) -> None:
    """Refuses tensors that do not fit the model or each other.

    Raises:
        ShapeError: names the tensor, what it is and what it must be.
    """
    _check_latent(config, latent)
    batch, _, frames, height, width = latent.shape
    _check_cond(config, latent, cond)
    tokens = frames * (height // 2) * (width // 2)
    if timestep.shape not in ((batch,), (batch, frames), (batch, tokens)):
        raise ShapeError(
            f"The timestep does not fit the latent. Got {tuple(timestep.shape)}, need "
            f"({batch},), ({batch}, {frames}) per latent frame or ({batch}, {tokens}) per token. "
            "Give one timestep per sample if all tokens are equally noisy."
        )
    fits = text.ndim == 3 and (text.shape[0], text.shape[2]) == (batch, config.text_dim)
    if not fits or text.shape[1] > config.text_len:
        raise ShapeError(
            f"The text embedding does not fit the model. Got {tuple(text.shape)}, need (B, L, C) "
            f"with B = {batch}, L <= {config.text_len}, C = {config.text_dim}. "
            "Use the text encoder that belongs to the model and cut the text to its limit."
        )


def _check_latent(config: DiTConfig, latent: Tensor) -> None:
    channels = config.out_channels
    if latent.ndim != 5 or latent.shape[1] != channels:
        raise ShapeError(
            f"The latent does not fit the model. Got {tuple(latent.shape)}, need "
            f"(B, {channels}, T, H, W). Use the VAE that belongs to the model: 16 channels are "
            "Wan 2.1's (14B models), 48 are Wan 2.2's (TI2V-5B)."
        )
    if latent.shape[3] % 2 or latent.shape[4] % 2:
        raise ShapeError(
            f"The latent cannot be cut into patches. Got H x W = {latent.shape[3]} x "
            f"{latent.shape[4]}, need even numbers. Use a video size that is a multiple of 16 "
            "pixels (14B) or 32 pixels (5B)."
        )


def _check_cond(config: DiTConfig, latent: Tensor, cond: Tensor | None) -> None:
    channels = config.cond_channels
    if channels == 0 and cond is not None:
        raise ShapeError(
            f"This model takes no condition channels. Got cond {tuple(cond.shape)}, need none. "
            "Load the I2V model to animate an image."
        )
    wanted = (latent.shape[0], channels, *latent.shape[2:])
    if channels and (cond is None or tuple(cond.shape) != wanted):
        got = "none" if cond is None else str(tuple(cond.shape))
        raise ShapeError(
            f"This model needs condition channels. Got cond {got}, need {wanted}: 4 mask channels "
            "(1 = known frame), then the image's latent. Encode the image at the video's "
            "size, or load the T2V model if there is none."
        )
