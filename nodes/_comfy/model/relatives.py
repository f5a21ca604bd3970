"""Core's own models of the Wan family, and the conditions that each of them reads.

VACE, Fun Control, Camera, S2V, Animate and others are loaded by core's loader and run under our
samplers. What they read is asked of their classes, so that new ones need nothing here.
"""

from types import CodeType
from typing import Any

import comfy.model_base

from ....wan_model.config import Kind
from ....wan_model.dit import WanDiT
from ....wan_model.errors import PairingError

WAN = comfy.model_base.WAN21
"""Base of core's whole family, and of our own model classes."""

OF_ITS_PARTS = {"reference_latents": "ref_conv", "clip_vision_output": "img_emb"}
"""Conditions that every class of the family passes on: the part of a transformer that reads it."""

CONDITIONS = {
    "vace_frames": ("a VACE control video", "a VACE model"),
    "camera_conditions": ("camera poses", "a Fun Camera model"),
    "audio_embed": ("speech or sound", "an S2V model"),
    "reference_motion": ("frames of an earlier clip", "an S2V model"),
    "control_video": ("a pose video", "an S2V model"),
    "face_video_pixels": ("a face video", "an Animate model"),
    "pose_video_latent": ("a pose video", "an Animate model"),
    "reference_latents": ("a reference image", "a Fun Control model"),
    "context_latents": ("source images or videos of Bernini", "core's own T2V-A14B"),
}
"""By key in a conditioning: what it is, and what reads it. Each is lost on other models."""

SAID = {
    "clip_vision_output": "CLIP vision has no effect on this model; Wan 2.2 was made without it."
}
"""Conditions that are often connected where they never counted."""


def relative_kind(model: Any, input_channels: int, latent_channels: int) -> Kind | None:
    """Returns whose official settings a model of core's family takes; None for other models."""
    if not isinstance(model, WAN):
        return None
    if latent_channels == 48:
        return "ti2v"
    return "t2v" if input_channels == latent_channels else "i2v"


def family_of(model: Any) -> str:
    """Returns what kind of relative of Wan2.2 a model is; "" for Wan2.2 T2V, I2V and TI2V."""
    name = type(model).__name__
    dit = model.diffusion_model
    if isinstance(dit, WanDiT):
        return ""
    if getattr(dit, "ref_conv", None) is not None:
        return f"{name} with a reference"
    return "" if name in ("WAN21", "WAN22") else name


def conditions_read(model: Any) -> frozenset[str]:
    """Returns which of `CONDITIONS` and `SAID` have an effect on a model."""
    dit = model.diffusion_model
    if isinstance(dit, WanDiT):
        return frozenset()
    classes = type(model).__mro__
    own = classes[: classes.index(WAN)] if WAN in classes else classes
    return frozenset(
        key
        for key in (*CONDITIONS, *SAID)
        if any(key in _constants(c) for c in (own if key in OF_ITS_PARTS else classes))
        or (key in OF_ITS_PARTS and getattr(dit, OF_ITS_PARTS[key], None) is not None)
    )


def unread_conditions(read: frozenset[str], label: str, *conditionings: Any) -> list[str]:
    """Returns what is to be said of conditions that have no effect.

    Args:
        read: those that the model reads.
        label: of the model.
        conditionings: positive and negative.

    Raises:
        PairingError: for one that the video would be made without.
    """
    given = {
        key for conditioning in conditionings for _, options in conditioning for key in options
    }
    for key, (what, reader) in CONDITIONS.items():
        if key in given - read:
            raise PairingError(
                f"This model does not read a condition. Got {what} ({key}) for {label}, need "
                f"{reader}, loaded with 'Load Diffusion Model'. Load that one, or disconnect the "
                "node that adds it."
            )
    return [text for key, text in SAID.items() if key in given - read]


def _constants(model_class: type) -> tuple[Any, ...]:
    """Returns the constants of the method that reads conditionings, names of them included."""
    method = vars(model_class).get("extra_conds")
    code = getattr(method, "__code__", None)
    return code.co_consts if isinstance(code, CodeType) else ()
