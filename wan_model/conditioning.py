"""Images as conditions: how they are fitted to the video, and the mask that marks known frames.

Shape legend: B batch, T frames of video, T' latent frames, H and W pixels, h and w latent pixels.
"""

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .shapes import latent_frames

GREY = 0.5
"""What the unknown frames of an I2V condition video hold, in [0, 1]."""


def in_colour(images: Tensor, dim: int = -1) -> Tensor:
    """Returns images with three channels: grey is repeated, an alpha channel is dropped.

    Args:
        images: of one to four channels; one and two are grey, without and with alpha.
        dim: of the channels.
    """
    if images.shape[dim] >= 3:
        return images.narrow(dim, 0, 3)
    return images.narrow(dim, 0, 1).repeat_interleave(3, dim)


def known_frames_mask(frames: int, first: int, last: int, height: int, width: int) -> Tensor:
    """Returns the I2V mask (1, 4, T', h, w): 1 where a frame is given, 0 where it is generated.

    The first frame is repeated four times, so that T + 3 frames fold into T' groups of four
    channels (`wan/image2video.py`); in the last latent frame a single given frame thus marks
    channel 3 only.

    Args:
        frames: T, 4n+1.
        first: given frames at the start.
        last: given frames at the end.
        height: h.
        width: w.
    """
    known = torch.zeros(frames)
    known[:first] = 1
    known[frames - last :] = 1
    groups = torch.cat((known[:1].repeat(4), known[1:])).view(latent_frames(frames), 4)
    return groups.T[None, :, :, None, None].expand(1, -1, -1, height, width).clone()


def condition_video(frames: int, start: Tensor | None, end: Tensor | None) -> Tensor:
    """Returns the video (T, H, W, 3) in [0, 1] whose latent is the I2V condition.

    Args:
        frames: T, 4n+1.
        start: given frames (n, H, W, 3) at the start, or None.
        end: given frames at the end, or None.
    """
    some = start if start is not None else end
    assert some is not None
    video = torch.full((frames, *some.shape[1:]), GREY)
    if start is not None:
        video[: len(start)] = start
    if end is not None:
        video[frames - len(end) :] = end
    return video


def amplify_motion(latent: Tensor, mask: Tensor, amplitude: float) -> Tensor:
    """Returns an I2V condition latent that asks for more motion, against slow distilled models.

    What the frames that are not given differ by from the first frame is scaled around its mean:
    d = latent - first, d' = (d - mean d) * amplitude + mean d, and first + d' within +-6. The mean
    is over channels and pixels, one per latent frame, so that the level stays. Given frames stay
    as they are. The formula is that of princepainter/ComfyUI-PainterI2V (November 2025), which
    advises 1.15 and calls it motion amplitude.

    Args:
        latent: (B, C, T', h, w), not normalised, as the VAE gives it; its first frame is given.
        mask: (1, 4, T', h, w) of `known_frames_mask`.
        amplitude: 1 changes nothing.
    """
    if amplitude == 1:
        return latent
    free = ~(mask > 0).any(dim=1, keepdim=True)
    difference = latent - latent[:, :, :1]
    mean = difference.mean(dim=(1, 3, 4), keepdim=True)
    scaled = latent[:, :, :1] + (difference - mean) * amplitude + mean
    return torch.where(free.to(latent.device), scaled.clamp(-6, 6), latent)


def resize_bicubic(images: Tensor, width: int, height: int) -> Tensor:
    """Resizes images to a size of about their aspect, as `wan/image2video.py` does.

    Bicubic without antialiasing; values may leave [0, 1] a little.

    Args:
        images: (N, H, W, 3) in [0, 1].
        width: pixels.
        height: pixels.

    Returns:
        Images (N, height, width, 3), fp32.
    """
    channels_first = images.movedim(-1, 1).float()
    return F.interpolate(channels_first, size=(height, width), mode="bicubic").movedim(1, -1)


def fit_bicubic(images: Tensor, width: int, height: int) -> Tensor:
    """Resizes images to cover a size and cuts what sticks out, centred (A14B).

    Arguments and result as `resize_bicubic`.
    """
    cover_width, cover_height = _cover(images.shape[2], images.shape[1], width, height)
    return _centre(resize_bicubic(images, cover_width, cover_height), width, height)


def fit_lanczos(images: Tensor, width: int, height: int) -> Tensor:
    """Resizes 8-bit images with Pillow's Lanczos to cover a size and cuts the centre (5B).

    As `wan/textimage2video.py` does. Arguments and result as `fit_bicubic`.
    """
    size = _cover(images.shape[2], images.shape[1], width, height)
    resized = []
    for image in (images * 255).round().clamp(0, 255).to(torch.uint8):
        fitted = Image.fromarray(image.cpu().numpy()).resize(size, Image.Resampling.LANCZOS)
        pixels = torch.frombuffer(bytearray(fitted.tobytes()), dtype=torch.uint8)
        resized.append(pixels.view(size[1], size[0], 3))
    return _centre(torch.stack(resized).float() / 255, width, height)


def _cover(width: int, height: int, target_width: int, target_height: int) -> tuple[int, int]:
    """Returns the size of the image's aspect that just covers the target."""
    scale = max(target_width / width, target_height / height)
    return max(target_width, round(width * scale)), max(target_height, round(height * scale))


def _centre(images: Tensor, width: int, height: int) -> Tensor:
    """Cuts (N, H, W, 3) to the size, the same on both sides."""
    left = (images.shape[2] - width) // 2
    top = (images.shape[1] - height) // 2
    return images[:, top : top + height, left : left + width]
