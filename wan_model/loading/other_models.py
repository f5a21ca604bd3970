"""Names for the files that people load by mistake, so that the refusal says what they have."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class OtherModel:
    """A model that is not supported, and the parts of key names that give it away."""

    what: str
    starts: tuple[str, ...] = ()
    """Any key (without prefix) that starts so is enough."""
    contains: tuple[str, ...] = ()
    advice: str = "Choose another file."

    def matches(self, name: str) -> bool:
        """Whether this key belongs to the model."""
        return name.startswith(self.starts) or any(part in name for part in self.contains)


LORA = OtherModel(
    "a LoRA",
    ("lora_unet_", "lycoris_"),
    (".lora_A.", ".lora_B.", ".lora_down.", ".lora_up.", ".lokr_", ".hada_", ".oft_blocks"),
    advice="Load it with a LoRA loader, on top of a model.",
)
WHOLE_PIPELINE = OtherModel(
    "a whole pipeline in one file", advice="Choose separate files for model, VAE and text encoder."
)

WAN_RELATIVES = (
    OtherModel("a Wan VACE model", ("vace_blocks.", "vace_patch_embedding.")),
    OtherModel(
        "a Wan2.2 Animate model",
        ("face_adapter.", "face_encoder.", "pose_patch_embedding.", "motion_encoder."),
    ),
    OtherModel("a HuMo model", ("audio_proj.audio_proj_glob",)),
    OtherModel(
        "a Wan2.2 S2V (speech to video) model",
        ("casual_audio_encoder.", "audio_injector.", "frame_packer."),
    ),
    OtherModel("an audio-driven Wan model", ("audio_proj.",), (".audio_cross_attn.",)),
    OtherModel("a Wan Fun camera control model", ("control_adapter.",)),
    OtherModel("a Wan Fun control model", ("ref_conv.",)),
    OtherModel(
        "a Wan2.1 image-to-video model (it has CLIP image weights)",
        ("img_emb.", "condition_embedder.image_embedder."),
        (".cross_attn.k_img.", ".attn2.add_k_proj."),
    ),
)

STRANGERS = (
    OtherModel("HunyuanVideo", ("txt_in.individual_token_refiner.",)),
    OtherModel("Flux", ("double_blocks.", "single_blocks.")),
    OtherModel("Stable Diffusion 3", ("joint_blocks.",)),
    OtherModel("LTX-Video or PixArt", ("adaln_single.", "patchify_proj.")),
    OtherModel(
        "Stable Diffusion", ("input_blocks.", "down_blocks.0.resnets.", "cond_stage_model.")
    ),
    OtherModel(
        "a diffusers model of another family", ("transformer_blocks.", "single_transformer_blocks.")
    ),
    OtherModel("a T5 text encoder without umT5's bias per layer", ("encoder.block.",)),
    OtherModel("a CLIP text encoder", ("text_model.", "transformer.resblocks.")),
    OtherModel("a CLIP vision model", ("vision_model.", "visual.")),
    OtherModel("a language model", ("layers.0.",)),
    OtherModel(
        "a TAEHV preview VAE with a large decoder ('super')",
        ("decoder.1.conv.0.", "decoder.18.weight"),
        advice="Choose the small one, such as taew2_1 or taew2_2.",
    ),
    OtherModel("a preview VAE for images (TAESD)", ("taesd_", "decoder.layers.3.conv.", "3.conv.")),
    OtherModel(
        "an image VAE",
        ("encoder.down.", "decoder.up.", "encoder.down_blocks."),
        ("post_quant_conv",),
    ),
)

BUNDLED_PARTS = ("vae.", "first_stage_model.", "text_encoders.", "cond_stage_model.")
"""Prefixes beside `model.diffusion_model.` in a file that holds a whole pipeline."""


def find_other_model(names: Iterable[str], models: Iterable[OtherModel]) -> OtherModel | None:
    """Returns the one of `models` that the keys (without prefix) belong to, if any."""
    present = list(names)
    for model in models:
        if any(model.matches(name) for name in present):
            return model
    return None
