"""The models that there are: those that can be loaded, and those that people load by mistake.

Everything that tells one from another is here. A new kind of transformer is a row of `DIT_KINDS`, a
new kind of file a row of `COMPONENTS`.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from ..config import DiTConfig, Kind, VaeConfig
from ..errors import CheckpointError, RelativeError
from ..vae import WanVae, build_vae
from ..vae.preview import PreviewVaeConfig, build_preview_vae
from . import keymap, sizes
from .keymap import Component
from .sizes import Clues, Config, TextEncoderConfig
from .source import RawTensor, first_names


@dataclass(frozen=True, kw_only=True)
class DitKind:
    """One kind of transformer, told by its channels."""

    kind: Kind
    name: str
    """For people."""
    in_channels: int
    latent_channels: int
    vae: Literal["wan2.1", "wan2.2"]
    """Whose latents it computes."""


DIT_KINDS = (
    DitKind(kind="t2v", name="T2V-A14B", in_channels=16, latent_channels=16, vae="wan2.1"),
    DitKind(kind="i2v", name="I2V-A14B", in_channels=36, latent_channels=16, vae="wan2.1"),
    DitKind(kind="ti2v", name="TI2V-5B", in_channels=48, latent_channels=48, vae="wan2.2"),
)


def find_dit_kind(in_channels: int, latent_channels: int) -> DitKind | None:
    """Returns the kind of transformer with so many channels, if there is one."""
    channels = (in_channels, latent_channels)
    return next((k for k in DIT_KINDS if (k.in_channels, k.latent_channels) == channels), None)


@dataclass(frozen=True)
class Spelling:
    """One way to name the tensors of a kind of file."""

    official: Callable[[str], str]
    """From a name to the official one."""
    markers: tuple[str, ...]
    """Keys of such files. Two of them are enough, so that an incomplete file is recognised."""


@dataclass(frozen=True, kw_only=True)
class ComponentKind:
    """One kind of file that can be loaded."""

    component: Component
    label: str
    """For people."""
    config_type: type
    spellings: tuple[Spelling, ...]
    read_config: Callable[[Clues], Config]
    build: Callable[[Any], WanVae] | None = None
    """From the config, for those that need nothing else."""


COMPONENTS = (
    ComponentKind(
        component="dit",
        label="diffusion model",
        config_type=DiTConfig,
        read_config=partial(
            sizes.dit_config,
            kinds={(k.in_channels, k.latent_channels): k.kind.upper() for k in DIT_KINDS},
        ),
        spellings=(
            Spelling(
                str,
                (
                    "head.modulation",
                    "patch_embedding.weight",
                    "blocks.0.self_attn.q.weight",
                    "blocks.0.ffn.0.weight",
                ),
            ),
            Spelling(
                keymap.dit_name,
                (
                    "condition_embedder.time_proj.weight",
                    "patch_embedding.weight",
                    "blocks.0.attn1.to_q.weight",
                    "blocks.0.scale_shift_table",
                ),
            ),
        ),
    ),
    ComponentKind(
        component="vae",
        label="VAE",
        config_type=VaeConfig,
        read_config=sizes.vae_config,
        build=build_vae,
        spellings=(
            Spelling(
                str,
                (
                    "decoder.middle.0.residual.0.gamma",
                    "encoder.middle.0.residual.0.gamma",
                    "decoder.head.0.gamma",
                ),
            ),
            Spelling(
                keymap.vae22_name,
                (
                    "encoder.down_blocks.0.resnets.0.norm1.gamma",
                    "encoder.down_blocks.0.resnets.0.norm2.gamma",
                    "encoder.down_blocks.0.resnets.1.norm1.gamma",
                ),
            ),
            Spelling(
                keymap.vae21_name,
                (
                    "decoder.mid_block.resnets.0.norm1.gamma",
                    "encoder.mid_block.resnets.0.norm1.gamma",
                    "decoder.norm_out.gamma",
                ),
            ),
        ),
    ),
    ComponentKind(
        component="preview_vae",
        label="preview VAE",
        config_type=PreviewVaeConfig,
        read_config=sizes.preview_vae_config,
        build=build_preview_vae,
        # Not of its relatives with a larger decoder, whose layers have other numbers.
        spellings=(Spelling(str, tuple(f"decoder.{layer}.weight" for layer in (1, 8, 14, 20))),),
    ),
    ComponentKind(
        component="text_encoder",
        label="text encoder",
        config_type=TextEncoderConfig,
        read_config=sizes.text_encoder_config,
        spellings=(
            Spelling(
                keymap.umt5_name,
                (
                    "blocks.0.pos_embedding.embedding.weight",
                    "blocks.1.pos_embedding.embedding.weight",
                    "blocks.0.ffn.gate.0.weight",
                ),
            ),
            Spelling(
                str,
                (
                    "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
                    "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight",
                ),
            ),
            Spelling(
                keymap.umt5_name, ("enc.blk.0.attn_rel_b.weight", "enc.blk.1.attn_rel_b.weight")
            ),
        ),
    ),
)


def label_of(config_type: type) -> str:
    """Returns what a component is called, by the type of its sizes."""
    return next(kind.label for kind in COMPONENTS if kind.config_type is config_type)


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

WAN_RELATIVES = (
    OtherModel("a Wan VACE model", ("vace_blocks.", "vace_patch_embedding.")),
    OtherModel(
        "a Wan 2.2 Animate model",
        ("face_adapter.", "face_encoder.", "pose_patch_embedding.", "motion_encoder."),
    ),
    OtherModel("a HuMo model", ("audio_proj.audio_proj_glob",)),
    OtherModel(
        "a Wan 2.2 S2V (speech to video) model",
        ("casual_audio_encoder.", "audio_injector.", "frame_packer."),
    ),
    OtherModel("an audio-driven Wan model", ("audio_proj.",), (".audio_cross_attn.",)),
    OtherModel("a Wan Fun camera control model", ("control_adapter.",)),
    OtherModel("a Wan Fun control model", ("ref_conv.",)),
    OtherModel(
        "a Wan 2.1 image-to-video model (it has CLIP image weights)",
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
    OtherModel("a T5 text encoder without umT5's bias per layer", ("encoder.block.", "enc.blk.")),
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


def identify(
    file: str, named: Collection[tuple[str, RawTensor]]
) -> tuple[ComponentKind, Spelling, dict[str, RawTensor]]:
    """Returns which model some tensors are, how they are spelled, and them by official name.

    Args:
        file: of the checkpoint, for messages.
        named: tensors with their names without prefix.

    Raises:
        CheckpointError: for anything but a part of Wan2.2, and for tensors that are there twice.
    """
    kind, spelling = _recognise(file, [name for name, _ in named])
    tensors: dict[str, RawTensor] = {}
    doubled: list[str] = []
    for name, raw in named:
        known = tensors.setdefault(spelling.official(name), raw)
        doubled += [] if known is raw else [f"{known.name} and {raw.name}"]
    if doubled:
        raise CheckpointError(
            f"{file} holds tensors twice. Got {len(doubled)} doubled keys "
            f"({first_names(doubled)}), need each tensor once. Use an unmerged original file."
        )
    return kind, spelling, tensors


def _recognise(file: str, names: list[str]) -> tuple[ComponentKind, Spelling]:
    """Returns what has tensors of these names, without prefix, and how it spells them."""
    present = set(names)
    found = [
        (kind, spelling)
        for kind in COMPONENTS
        for spelling in kind.spellings
        if len(present.intersection(spelling.markers)) >= 2
    ]
    is_dit = bool(found) and found[0][0].component == "dit"
    others = (LORA, *(WAN_RELATIVES if is_dit or not found else ()), *(() if found else STRANGERS))
    other = next((one for one in others if any(map(one.matches, names))), None)
    if found and other is None:
        return found[0]
    other = other or OtherModel(
        f"an unknown model with keys such as {first_names(names) or '(none)'}"
    )
    error = RelativeError if other in WAN_RELATIVES else CheckpointError
    raise error(
        f"{file} is not a supported model. Got {other.what}, need a Wan 2.2 T2V-A14B, "
        f"I2V-A14B or TI2V-5B model, a Wan VAE or a umT5 text encoder. {other.advice}"
    )
