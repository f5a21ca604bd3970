"""What goes through our blocks in the shapes of core's Wan model, and back.

Shape legend: B batch, L tokens, T latent frames, P rotated pairs of a head, C hidden width, U
distinct timesteps.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ....wan_model.attention import AttentionFn
from ....wan_model.dit import BlockInputs
from ....wan_model.dit.rope import Rotation
from ....wan_model.dit.timesteps import TimestepRows
from ....wan_model.dit.tokens import Residual


@dataclass(frozen=True)
class CoreInputs:
    """The inputs of a forward pass' blocks as core's blocks get them, made when asked for."""

    ours: BlockInputs
    frames: int
    """T."""

    @cached_property
    def e(self) -> Tensor:
        """Six vectors for each sample (B, 1, 6, C), or for each of its frames (B, T, 6, C)."""
        time = self.ours.time
        tokens = time.index.shape[1]
        return time.rows[time.index if tokens == 1 else time.index[:, :: tokens // self.frames]]

    @cached_property
    def freqs(self) -> Tensor:
        """Rotations of all tokens, fp32 (1, L, 1, P, 2, 2)."""
        return to_freqs(self.ours.rotation)

    def changed(self, args: dict[str, Any]) -> BlockInputs:
        """Returns our inputs with what a replaced block was given in place of these.

        Args:
            args: "txt", "vec" and "pe", as core's blocks take them.
        """
        inputs, text, e, freqs = self.ours, args.get("txt"), args.get("vec"), args.get("pe")
        if text is not None and text is not inputs.text:
            inputs = replace(inputs, text=text)
        if e is not None and e is not self.e:
            tokens = self.ours.rotation.cos.shape[0]
            inputs = replace(inputs, time=from_e(e, self.ours.text.shape[0], tokens))
        if freqs is not None and freqs is not self.freqs:
            inputs = replace(inputs, rotation=from_freqs(freqs))
        return inputs


def from_core(
    x: Tensor, e: Tensor, freqs: Tensor, context: Tensor, attend: AttentionFn
) -> BlockInputs:
    """Returns our inputs for a block that is called as one of core's.

    Args:
        x: residual stream (B, L, C), which stays as it is.
        e: (B, 6, C) or (B, T, 6, C).
        freqs: (1, L, 1, P, 2, 2).
        context: embedded text (B, S, C).
        attend: for both attentions.
    """
    time = from_e(e, x.shape[0], x.shape[1])
    return BlockInputs(time, from_freqs(freqs), context, attend, Residual(recorded=True))


def to_freqs(rotation: Rotation) -> Tensor:
    """Returns angles as rotation matrices, fp32 (1, L, 1, P, 2, 2)."""
    rows = (rotation.cos, -rotation.sin, rotation.sin, rotation.cos)
    return torch.stack(rows, dim=-1).unflatten(-1, (2, 2)).unsqueeze(0)


def from_freqs(freqs: Tensor) -> Rotation:
    """Returns the angles of rotation matrices (1, L, 1, P, 2, 2)."""
    return Rotation(freqs[0, ..., 0, 0].float(), freqs[0, ..., 1, 0].float())


def from_e(e: Tensor, batch: int, tokens: int) -> TimestepRows:
    """Returns what each token's timestep became.

    Args:
        e: (B or 1, 6, C), or (B or 1, T, 6, C) with a T that need not divide L.
        batch: B.
        tokens: L.
    """
    if e.ndim == 3:
        e = e.unsqueeze(1)
    samples, steps = e.shape[:2]
    index = torch.arange(samples * steps, device=e.device).view(samples, steps)
    if steps > 1:
        index = index.repeat_interleave(-(-tokens // steps), dim=1)[:, :tokens]
    return TimestepRows(e.flatten(0, 1).float(), index.expand(batch, -1))
