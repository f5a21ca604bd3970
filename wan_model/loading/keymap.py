"""Key names: from every spelling found in the wild to the official one.

The official names are those of Wan's repository, of text encoders those of transformers. Sources:
`convert_wan_to_diffusers.py` of diffusers, both VAEs and `wan/modules/t5.py` of the official
repository, `constants.py` of gguf-py.
"""

import re
from collections.abc import Callable, Collection
from typing import Literal

Component = Literal["dit", "vae", "preview_vae", "text_encoder"]

ShortName = Callable[[str], str | None]
"""From a key to its name without prefix; None for keys of parts that were not asked for."""

PREFIXES = ("model.diffusion_model.", "diffusion_model.", "model.model.", "model.", "net.")
"""Put before the official names by ComfyUI and trainers. No official name starts like them."""

PART_PREFIXES: dict[Component, tuple[str, ...]] = {
    "dit": ("model.diffusion_model.",),
    "vae": ("vae.", "first_stage_model."),
    "text_encoder": tuple(
        f"text_encoders.{rest}" for rest in ("umt5xxl.transformer.", "umt5xxl.", "")
    ),
}
"""What ComfyUI's *CheckpointSave* puts before the parts of a pipeline, which are in one file then;
where one begins like another, the longer one comes first."""

OTHER_PARTS = ("cond_stage_model.", *PART_PREFIXES["vae"], *PART_PREFIXES["text_encoder"])
"""What comes beside the transformer in an all-in-one file."""

NO_WEIGHTS = ("logit_scale",)
"""What ComfyUI saves with a text encoder, and no text encoder uses."""

SCALE_SPELLINGS = {
    "scale_weight": "weight_scale",
    "scale_input": "input_scale",
    "weight_s_rel": "weight_scale",
    "weight_s_channel": "weight_scale_2",
}
"""Leaf names of scales in older files and in asym_w4a8_int8, and the ones used here."""


def short_names(keys: Collection[str], part: Component) -> ShortName:
    """Returns the function from a key to its name without prefix, with today's names of scales.

    Args:
        keys: all of a checkpoint.
        part: which one to take of a file that holds several: of other parts' keys it is None.
    """
    starts = PART_PREFIXES["dit"]
    bundle = any(k.startswith(starts) for k in keys) and any(
        k.startswith(OTHER_PARTS) for k in keys
    )
    prefixes = PART_PREFIXES[part] if bundle else ("",)

    def short(key: str) -> str | None:
        prefix = next((one for one in prefixes if key.startswith(one)), None)
        if prefix is None or (bundle and key.removeprefix(prefix) in NO_WEIGHTS):
            return None
        name = key.removeprefix(prefix)
        name = name.removeprefix(next((p for p in PREFIXES if name.startswith(p)), ""))
        path, dot, leaf = name.rpartition(".")
        return path + dot + SCALE_SPELLINGS.get(leaf, leaf)

    return short


_DIT_OUTSIDE = {
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    "scale_shift_table": "head.modulation",
    "proj_out": "head.head",
}
_DIT_BLOCK = {
    "scale_shift_table": "modulation",
    "ffn.net.0.proj": "ffn.0",
    "ffn.net.2": "ffn.2",
    # diffusers numbers the norms by order of use, the checkpoints call the affine one norm3.
    "norm2": "norm3",
    **{
        f"{theirs}.{their_part}": f"{ours}.{our_part}"
        for theirs, ours in (("attn1", "self_attn"), ("attn2", "cross_attn"))
        for their_part, our_part in (
            ("to_q", "q"),
            ("to_k", "k"),
            ("to_v", "v"),
            ("to_out.0", "o"),
            ("norm_q", "norm_q"),
            ("norm_k", "norm_k"),
        )
    },
}
_UMT5_OUTSIDE = {
    "token_embedding": "shared",
    "norm": "encoder.final_layer_norm",
    "token_embd": "shared",
    "enc.output_norm": "encoder.final_layer_norm",
}
_UMT5_BLOCK = {
    theirs: f"layer.{ours}"
    for ours, *spellings in (
        ("0.layer_norm", "norm1", "attn_norm"),
        *((f"0.SelfAttention.{one}", f"attn.{one}", f"attn_{one}") for one in "qkvo"),
        ("0.SelfAttention.relative_attention_bias", "pos_embedding.embedding", "attn_rel_b"),
        ("1.layer_norm", "norm2", "ffn_norm"),
        ("1.DenseReluDense.wi_0", "ffn.gate.0", "ffn_gate"),
        ("1.DenseReluDense.wi_1", "ffn.fc1", "ffn_up"),
        ("1.DenseReluDense.wo", "ffn.fc2", "ffn_down"),
    )
    for theirs in spellings
}
"""Of transformers, Wan's own code, whose gate is the first of two branches, and llama.cpp."""
_TO_DIFFUSERS_OUTSIDE = {ours: theirs for theirs, ours in _DIT_OUTSIDE.items()} | {
    "img_emb.proj.0": "condition_embedder.image_embedder.norm1",
    "img_emb.proj.1": "condition_embedder.image_embedder.ff.net.0.proj",
    "img_emb.proj.3": "condition_embedder.image_embedder.ff.net.2",
    "img_emb.proj.4": "condition_embedder.image_embedder.norm2",
}
_TO_DIFFUSERS_BLOCK = {ours: theirs for theirs, ours in _DIT_BLOCK.items()} | {
    "cross_attn.k_img": "attn2.add_k_proj",
    "cross_attn.v_img": "attn2.add_v_proj",
    "cross_attn.norm_k_img": "attn2.norm_added_k",
    "before_proj": "proj_in",
    "after_proj": "proj_out",
}
_VAE_OUTSIDE = {"quant_conv": "conv1", "post_quant_conv": "conv2"}
_VAE_CODER = {
    "conv_in": "conv1",
    "norm_out": "head.0",
    "conv_out": "head.2",
    "mid_block.resnets.0": "middle.0",
    "mid_block.attentions.0": "middle.1",
    "mid_block.resnets.1": "middle.2",
}
_VAE_RESIDUAL = {
    "norm1": "residual.0",
    "conv1": "residual.2",
    "norm2": "residual.3",
    "conv2": "residual.6",
    "conv_shortcut": "shortcut",
}


def _replace(table: dict[str, str], name: str) -> str:
    """Returns the name with a leading module of the table replaced, or unchanged."""
    for theirs, ours in table.items():
        if name == theirs or name.startswith(theirs + "."):
            return ours + name.removeprefix(theirs)
    return name


def _replace_in_blocks(
    block: str, inside: dict[str, str], outside: dict[str, str], name: str
) -> str:
    """Returns the name with what follows a block's number replaced, or what is in no block."""
    found = re.match(block, name)
    if found is None:
        return _replace(outside, name)
    return found[0] + _replace(inside, name[found.end() :])


def dit_name(name: str) -> str:
    """Returns the official name of what diffusers calls so in a transformer."""
    return _replace_in_blocks(r"blocks\.\d+\.", _DIT_BLOCK, _DIT_OUTSIDE, name)


def umt5_name(name: str) -> str:
    """Returns the name that transformers has for a tensor of a text encoder."""
    name = re.sub(r"^(?:enc\.blk|blocks)\.(\d+)\.", r"encoder.block.\1.", name)
    return _replace_in_blocks(r"encoder\.block\.\d+\.", _UMT5_BLOCK, _UMT5_OUTSIDE, name)


def diffusers_dit_name(name: str) -> str:
    """Returns what diffusers calls a module or tensor of the transformer with an official name.

    Parts that only Wan2.1's image inputs and VACE have are named as well.
    """
    block = r"(?:vace_)?blocks\.\d+\."
    return _replace_in_blocks(block, _TO_DIFFUSERS_BLOCK, _TO_DIFFUSERS_OUTSIDE, name)


def vae21_name(name: str) -> str:
    """Returns the official name of what diffusers calls so in a Wan2.1 VAE.

    Encoder stages are flat in both; a decoder stage of 3 blocks and an upsampler is not.
    """
    name = re.sub(r"^encoder\.down_blocks\.(\d+)", r"encoder.downsamples.\1", name)
    stage = re.match(r"decoder\.up_blocks\.(\d{1,3})\.(?:resnets\.(\d)|upsamplers\.0)", name)
    if stage:
        index = 4 * int(stage[1]) + int(stage[2] or 3)
        name = f"decoder.upsamples.{index}{name[stage.end() :]}"
    return _vae_name(name)


def vae22_name(name: str) -> str:
    """Returns the same of a Wan2.2 VAE.

    Stages of both coders hold residual blocks, then a sampler: number 2 or 3.
    """
    name = re.sub(
        r"^encoder\.down_blocks\.(\d+)\.(?:resnets\.(\d+)|downsampler)",
        lambda m: f"encoder.downsamples.{m[1]}.downsamples.{m[2] or 2}",
        name,
    )
    name = re.sub(
        r"^decoder\.up_blocks\.(\d+)\.(?:resnets\.(\d+)|upsampler)",
        lambda m: f"decoder.upsamples.{m[1]}.upsamples.{m[2] or 3}",
        name,
    )
    return _vae_name(name)


def _vae_name(name: str) -> str:
    """Renames what is the same in both VAEs; stages are numbered already."""
    coder, dot, rest = name.partition(".")
    if coder not in ("encoder", "decoder"):
        return _replace(_VAE_OUTSIDE, name)
    rest = _replace(_VAE_CODER, rest)
    block = re.match(
        r"(?:middle\.\d+|(?:(?:down|up)samples\.\d+\.)?(?:down|up)samples\.\d+)\.", rest
    )
    if block:
        rest = block[0] + _replace(_VAE_RESIDUAL, rest[block.end() :])
    return coder + dot + rest
