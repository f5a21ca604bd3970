"""How LoRA files spell the weights that they change: dialects as tables, and the official names.

Sources: the writers' code. diffusers and finetrainers (`transformer.`, attn1.to_q), PEFT
(`base_model.model.`, `.default`), DiffSynth (no prefix, `pipe.dit.`), musubi-tuner and kohya
(`lora_unet_`), VideoX-Fun (`lora_unet__`), LyCORIS and SimpleTuner (`lycoris_`), LightX2V
(`diff_m`), ai-toolkit (both experts in one file).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ..loading import Expert
from ..loading.keymap import diffusers_dit_name

PREFIXES = (
    "base_model.model.",
    "pipe.dit.",
    "model.diffusion_model.",
    "diffusion_model.",
    "transformer.",
    "unet.",
    "model.",
    "dit.",
    "net.",
)
"""Before names with dots, also one behind the other. No official name starts like them."""

FLAT_PREFIX = re.compile(
    r"(?:lora_unet|lora_transformer|lora_dit|lycoris)_+(?:diffusion_model_|transformer_(?!\d))?"
)
"""Before names in which dots are underscores."""

EXPERTS = re.compile(r"transformer_?(?P<number>[12])[._]")
"""Before the names of one expert, in a file of both; the first is the high-noise one."""

_ADAPTER = r"(?:\.[\w-]+)?"
"""PEFT's name of the adapter, such as ".default"."""

LEAVES = {
    "down": rf"\.lora_(?:down|A){_ADAPTER}\.weight|\.lora_A|[._]lora\.down\.weight"
    r"|\.lora_linear_layer\.down\.weight",
    "up": rf"\.lora_(?:up|B){_ADAPTER}\.weight|\.lora_B|[._]lora\.up\.weight"
    r"|\.lora_linear_layer\.up\.weight",
    "up_bias": rf"\.lora_(?:up|B){_ADAPTER}\.bias",
    "mid": r"\.lora_mid\.weight",
    "alpha": r"\.alpha",
    "reshape": r"\.reshape_weight",
    "input_turn": rf"\.oft_R{_ADAPTER}\.weight",
    "magnitude": rf"\.dora_scale|\.lora_magnitude_vector{_ADAPTER}(?:\.weight)?",
    **{
        name: rf"\.{name}{_ADAPTER}"
        for name in (
            *(f"hada_{part}" for part in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")),
            *(f"lokr_{part}" for part in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")),
            "oft_blocks",
            "rescale",
            "ia3_l",
        )
    },
    **{name: rf"\.{name}\.weight" for name in ("a1", "a2", "b1", "b2")},
    **{name: rf"\.{name}" for name in ("on_input", "diff", "diff_b", "diff_m", "set_weight")},
    "w_norm": r"\.w_norm",
    "b_norm": r"\.b_norm",
    "scalar": r"\.scalar",
    "weight": r"\.weight",
}
"""What a tensor of a LoRA is, and how its key ends. A bare weight only counts in IA3."""

_LEAF = re.compile(
    "(?P<module>.+?)(?:" + "|".join(f"(?P<{name}>{end})" for name, end in LEAVES.items()) + ")"
)

OTHER_SPELLINGS = {"attn1.to_out": "attn1.to_out.0", "attn2.to_out": "attn2.to_out.0"}
"""Ends of modules that some writers shorten."""

ABSENT = (
    (
        r"[kv]_img|img_emb|add_[kv]_proj|norm_added_k|image_embedder",
        "for image inputs that Wan 2.1 has and this model does not",
    ),
    (r"vace", "for a VACE model"),
    (r"ref_conv|control_adapter", "for a Fun Control or Camera model"),
    (r"face_|motion_encoder|pose_patch|pose_embed", "for an Animate model"),
    (r"audio|cond_mask|frame_packer|trainable_cond", "for an S2V model"),
    (r"^(?:lora_te|text_encoder|cond_stage_model)", "for a text encoder"),
)
"""Parts that a model may lack by design, by what their names have in them."""

OTHER_FILES = (
    (r"\.[qkvo]_loras\.", "a Stand-In file, which steers identity by layers of its own"),
    (
        r"^(?:double_blocks|single_blocks|lora_unet_(?:double|single)_blocks)",
        "a LoRA for Flux or Hunyuan",
    ),
    (r"joint_blocks|single_transformer_blocks", "a LoRA for another model"),
    (r"transformer_blocks", "a LoRA for LTX, Qwen-Image or another model"),
    (r"input_blocks|down_blocks|mid_block", "a LoRA for Stable Diffusion or its VAE"),
    (r"ip_adapter|image_proj|ip_layers", "an IP adapter"),
    (r"^(?:encoder|decoder)\.", "a VAE"),
    (r"^(?:emb_params|clip_[gl])$", "a textual inversion embedding"),
    (r"patch_embedding\.weight$", "a whole model or a part of one"),
)
"""What a file without any LoRA for Wan is, by what its names have in them."""


@dataclass(frozen=True)
class Spelled:
    """A key of a LoRA file, taken apart."""

    module: str
    """What is changed, as the file spells it."""
    leaf: str
    """One of `LEAVES`."""


def take_apart(key: str) -> Spelled | None:
    """Returns the parts of a key; None for one that no LoRA has."""
    found = _LEAF.fullmatch(key)
    if found is None or found.lastgroup is None:
        return None
    return Spelled(found["module"], found.lastgroup)


def expert_of(module: str) -> tuple[Expert | None, str]:
    """Returns the expert that a module of a file of both belongs to, and the rest of its name."""
    for prefix in ("diffusion_model.", "lycoris_", "lora_unet_", ""):
        found = EXPERTS.match(module, len(prefix)) if module.startswith(prefix) else None
        if found:
            expert: Expert = "high" if found["number"] == "1" else "low"
            return expert, prefix + module[found.end() :]
    return None, module


class Names:
    """The modules of one model, by everything that LoRA files call them."""

    def __init__(self, tensors: Iterable[str]) -> None:
        """Takes the official names of the model's tensors."""
        self._official: dict[str, str] = {}
        for tensor in tensors:
            module, _, leaf = tensor.rpartition(".")
            # Modulations are tensors beside layers, and are named like a layer.
            official = module if leaf in ("weight", "bias") else tensor
            spellings = {official, diffusers_dit_name(official)}
            spellings |= {
                name.removesuffix(long) + short
                for short, long in OTHER_SPELLINGS.items()
                for name in spellings
                if name.endswith(long)
            }
            for name in spellings:
                self._official[name] = self._official[name.replace(".", "_")] = official

    def official(self, module: str) -> str | None:
        """Returns the official name of a module, None if the model has none like it."""
        flat = FLAT_PREFIX.match(module)
        bare = module[flat.end() :] if flat else without_prefixes(module)
        return self._official.get(bare)


def without_prefixes(module: str) -> str:
    """Returns a name without all that writers put before it."""
    while prefix := next((p for p in PREFIXES if module.startswith(p)), None):
        module = module.removeprefix(prefix)
    return module


def why_absent(module: str) -> str | None:
    """Returns why a model of Wan2.2 has no such module by design; None if that is not known."""
    return next((why for pattern, why in ABSENT if re.search(pattern, module)), None)


def what_else(keys: Iterable[str]) -> str | None:
    """Returns what a file is that is no LoRA for Wan; None if that is not known."""
    names = [without_prefixes(key) for key in keys]
    for pattern, what in OTHER_FILES:
        if any(re.search(pattern, name) for name in names):
            return what
    return None
