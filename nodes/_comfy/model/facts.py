"""What a MODEL, VAE, CONDITIONING or LATENT is, ours or stock, and whether they fit together."""

from dataclasses import dataclass
from typing import Any

from comfy.model_patcher import ModelPatcher

from ....wan_model.config import OFFICIAL, Kind, OfficialSettings
from ....wan_model.errors import PairingError
from ....wan_model.loading import Expert, find_dit_kind
from ....wan_model.shapes import video_frames
from .load_models import CHECKPOINT, SPEED
from .relatives import conditions_read, family_of, relative_kind, unread_conditions

VAE_FILES = {16: "wan_2.1_vae.safetensors (14B models)", 48: "wan2.2_vae.safetensors (TI2V-5B)"}
LATENTS = ("concat_latent_image", "time_dim_concat", "reference_latents", "pose_video_latent")
"""Keys of encoded images and videos in conditionings."""
TEXT_ENCODER_FILE = "umt5_xxl_fp8_e4m3fn_scaled.safetensors"


@dataclass(frozen=True)
class ModelFacts:
    """What the samplers need to know of a MODEL."""

    kind: Kind
    latent_channels: int
    text_dim: int
    label: str
    """For people; the file's label if the model came from our loader."""
    family: str = ""
    """For relatives of Wan2.2 of core's own loader, such as VACE: their class."""
    reads: frozenset[str] = frozenset()
    """Conditions beside text, images and Phantom's videos that have an effect."""
    expert: Expert | None = None
    """To judge by the name of the file, if our loader loaded it."""
    speed: str = ""
    """Name of the tier that our loader was set to."""

    @property
    def official(self) -> OfficialSettings:
        """The official settings of the kind."""
        return OFFICIAL[self.kind]


def model_facts(patcher: ModelPatcher) -> ModelFacts:
    """Reads the facts off a MODEL of any loader.

    Raises:
        PairingError: if it is no Wan2.2 T2V, I2V or TI2V model, nor a relative of core's.
    """
    dit = getattr(patcher.model, "diffusion_model", None)
    patch = getattr(getattr(dit, "patch_embedding", None), "weight", None)
    text = getattr(dit, "text_embedding", None)
    name = type(patcher.model).__name__
    if patch is None or text is None:
        raise _not_wan(name)
    channels = (patch.shape[1], patcher.model.latent_format.latent_channels)
    found = find_dit_kind(*channels)
    kind = relative_kind(patcher.model, *channels) if found is None else found.kind
    if kind is None:
        raise _not_wan(f"{name} with {channels[0]} input and {channels[1]} latent channels")
    family = family_of(patcher.model)
    if found is None and not family:
        family = f"{name} with {channels[0]} input channels"
    info = patcher.get_attachment(CHECKPOINT)
    label = info.label if info is not None else family or (found.name if found else name)
    return ModelFacts(
        kind,
        channels[1],
        text[0].in_features,
        label,
        family=family,
        reads=conditions_read(patcher.model),
        expert=None if info is None else info.expert,
        speed=patcher.get_attachment(SPEED) or "",
    )


def _not_wan(found: str) -> PairingError:
    return PairingError(
        f"This model is not Wan 2.2. Got {found}, need a T2V-A14B, I2V-A14B or TI2V-5B model. Load "
        "one with 'Wan 2.2 Load Model' or 'Wan 2.2 Load 14B Experts'."
    )


def of_experts(high: ModelPatcher, low: ModelPatcher | None) -> ModelFacts:
    """Reads the facts off the first of two experts, or the only MODEL.

    Raises:
        PairingError: as `model_facts` and `check_experts`.
    """
    found = model_facts(high)
    if low is not None:
        check_experts(found, model_facts(low))
    return found


def check_experts(high: ModelFacts, low: ModelFacts) -> None:
    """Refuses two experts of different kinds.

    Raises:
        PairingError: names both.
    """
    if "ti2v" in (high.kind, low.kind):
        raise PairingError(
            f"TI2V-5B has one model for all steps. Got {high.label} at model_high and {low.label} "
            "at model_low, need it at model_high alone. Disconnect model_low, or load both experts "
            "of T2V-A14B or I2V-A14B."
        )
    same = (high.kind, high.family) == (low.kind, low.family)
    if not same or high.text_dim != low.text_dim:
        raise PairingError(
            f"These two experts don't belong together. Got {high.label} at model_high and "
            f"{low.label} at model_low, need the high-noise and the low-noise file of one model. "
            "Choose both of T2V-A14B or both of I2V-A14B."
        )
    if (high.expert, low.expert) == ("low", "high"):
        raise PairingError(
            f"These look swapped, judging by the file names. Got {high.label} at "
            f"model_high and {low.label} at model_low, need them the other way round. Swap them."
        )


def check_start(high: ModelFacts, start: ModelPatcher | None) -> None:
    """Refuses a model for the first steps that is of another kind, or for low noise.

    Raises:
        PairingError: names both.
    """
    if start is None:
        return
    first = model_facts(start)
    same = (high.kind, high.family, high.text_dim) == (first.kind, first.family, first.text_dim)
    if not same or first.expert == "low":
        raise PairingError(
            f"The model for the first steps does not fit. Got {first.label} at model_start and "
            f"{high.label} at model_high, need the high-noise model at both, here without its LoRA "
            "for few steps. Connect that one, or disconnect model_start."
        )


def check_conditionings(model: ModelFacts, positive: Any, negative: Any) -> list[str]:
    """Refuses conditionings made for another model, before anything is computed.

    Returns:
        what is to be said of conditions that have no effect.

    Raises:
        PairingError: names what is wrong and the file that is right.
    """
    said = unread_conditions(model.reads, model.label, positive, negative)
    for conditioning in (positive, negative):
        for embedding, _ in conditioning:
            if embedding is not None and embedding.shape[-1] != model.text_dim:
                raise PairingError(
                    "The text encoder does not fit the model. Got embeddings of width "
                    f"{embedding.shape[-1]}, {model.label} needs {model.text_dim}. Load the "
                    f"model's own encoder: {TEXT_ENCODER_FILE} for every released model."
                )
    _check_latents(model, positive, negative)
    if model.family:
        return said
    has_image = any("concat_latent_image" in options for _, options in positive)
    if has_image and model.kind != "i2v":
        raise PairingError(
            f"This model cannot start from an image. Got {model.label} with a start or end image, "
            "need I2V-A14B. Load the wan2.2_i2v_high_noise_14B and wan2.2_i2v_low_noise_14B files, "
            "or disconnect the image."
        )
    if not has_image and model.kind == "i2v":
        raise PairingError(
            f"This model needs an image. Got {model.label} without start or end image, need one. "
            "Connect it at 'Wan 2.2 Video Size & Images', or load the wan2.2_t2v_high_noise_14B "
            "and wan2.2_t2v_low_noise_14B files for text to video."
        )
    return said


def _check_latents(model: ModelFacts, positive: Any, negative: Any) -> None:
    """Refuses conditions that another VAE has encoded; those of relatives may be of several."""
    for _, options in (*positive, *negative):
        for key in LATENTS:
            for latent in _listed(options.get(key)):
                channels = latent.shape[1]
                fits = channels == model.latent_channels
                if not fits and (not model.family or channels in (4, 48)):
                    raise PairingError(
                        f"A condition was made with a different VAE. Got {channels} channels in "
                        f"{key}, "
                        f"{model.label} needs {model.latent_channels}. Load the VAE "
                        f"{VAE_FILES[model.latent_channels]} for the node that adds it."
                    )


def _listed(value: Any) -> list[Any]:
    values = value if isinstance(value, (list, tuple)) else [value]
    return [one for one in values if hasattr(one, "shape")]


def check_latent(model: ModelFacts, samples: Any) -> None:
    """Refuses a latent made for another model.

    Raises:
        PairingError: names the right VAE file.
    """
    channels = samples.shape[1]
    if samples.ndim == 5 and channels == model.latent_channels:
        return
    if channels in VAE_FILES and samples.ndim == 5:
        raise PairingError(
            f"This latent is for another model. Got {channels} channels, {model.label} needs "
            f"{model.latent_channels}. Make it with 'Wan 2.2 Video Size & Images' and the VAE "
            f"{VAE_FILES[model.latent_channels]}."
        )
    raise PairingError(
        f"This latent is not a Wan video. Got shape {tuple(samples.shape)}, need (B, "
        f"{model.latent_channels}, T, H, W). Make it with 'Wan 2.2 Video Size & Images'."
    )


def check_image_length(model: ModelFacts, positive: Any, negative: Any, samples: Any) -> None:
    """Refuses a latent of another length than the video in the conditionings of I2V.

    Raises:
        PairingError: names both lengths.
    """
    if model.family:
        return
    for _, options in (*positive, *negative):
        image = options.get("concat_latent_image")
        if image is not None and image.shape[2] != samples.shape[2]:
            given, wanted = (video_frames(latent.shape[2]) for latent in (samples, image))
            raise PairingError(
                f"The latent and the start or end image are of different lengths. Got a latent of "
                f"{given} frames, need {wanted} as in the conditioning. Take both from the same "
                "'Wan 2.2 Video Size & Images'."
            )


def check_vae(vae: Any, samples: Any) -> None:
    """Refuses to decode a latent of another VAE.

    Raises:
        PairingError: names the right VAE file.
    """
    channels = samples.shape[1]
    if samples.ndim == 5 and channels == vae.latent_channels:
        return
    if samples.ndim == 5 and channels in VAE_FILES:
        raise PairingError(
            f"The VAE does not fit the latent. Got a VAE for {vae.latent_channels} channels, need "
            f"one for {channels}. Load the VAE {VAE_FILES[channels]}."
        )
    raise PairingError(
        f"This latent is not a Wan video. Got shape {tuple(samples.shape)}, need (B, "
        f"{vae.latent_channels}, T, H, W). Connect the latent of a Wan sampler."
    )
