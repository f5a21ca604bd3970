"""Classifier-free guidance."""

from torch import Tensor


def guide(cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    """Returns uncond + scale * (cond - uncond) in fp32.

    Guidance is linear, so velocities and x0 predictions may be given alike. At scale 1 the result
    is `cond`: the caller can save the unconditional call altogether, which the official code does
    not do.

    Args:
        cond: prediction with the prompt, any float dtype.
        uncond: prediction with the negative prompt, same shape.
        scale: guidance scale, 1 or more in practice.
    """
    uncond = uncond.float()
    return uncond + scale * (cond.float() - uncond)
