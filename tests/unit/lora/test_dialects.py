"""Every spelling of a LoRA's keys leads to the weights that it is for."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from wan_model.errors import CheckpointError

from .files import DIM, RANK, changed, randn, translated, weight

QUERY, UP, OUT = "blocks.1.self_attn.q", "blocks.0.ffn.0", "blocks.0.cross_attn.o"
SELF_OUT = "blocks.0.self_attn.o"
DIFFUSERS = {
    QUERY: "blocks.1.attn1.to_q",
    UP: "blocks.0.ffn.net.0.proj",
    OUT: "blocks.0.attn2.to_out.0",
    SELF_OUT: "blocks.0.attn1.to_out.0",
}
OFFICIAL = {name: name for name in DIFFUSERS}
FLAT = {name: name.replace(".", "_") for name in DIFFUSERS}
FLAT_DIFFUSERS = {name: other.replace(".", "_") for name, other in DIFFUSERS.items()}
SHORT = {name: other.removesuffix(".0") for name, other in DIFFUSERS.items()}
AB, DOWN_UP = ("lora_A.weight", "lora_B.weight"), ("lora_down.weight", "lora_up.weight")
DEFAULT = ("lora_A.default.weight", "lora_B.default.weight")

DIALECTS = {
    "comfy": ("diffusion_model.", OFFICIAL, AB),
    "lightx2v": ("diffusion_model.", OFFICIAL, DOWN_UP),
    "diffusers": ("transformer.", DIFFUSERS, AB),
    "diffusers with comfy's prefix": ("diffusion_model.", DIFFUSERS, AB),
    "diffusers without prefix": ("", DIFFUSERS, AB),
    "diffusers, older": ("transformer.", SHORT, ("lora.down.weight", "lora.up.weight")),
    "diffsynth": ("", OFFICIAL, DEFAULT),
    "diffsynth pipe": ("pipe.dit.", OFFICIAL, DEFAULT),
    "peft": ("base_model.model.", OFFICIAL, AB),
    "peft of diffusers": ("base_model.model.", DIFFUSERS, DEFAULT),
    "peft, nested": ("base_model.model.diffusion_model.", OFFICIAL, AB),
    "transformer": ("transformer.", OFFICIAL, AB),
    "checkpoint": ("model.diffusion_model.", OFFICIAL, AB),
    "kohya": ("lora_unet_", FLAT, DOWN_UP),
    "kohya of diffusers": ("lora_unet_", FLAT_DIFFUSERS, DOWN_UP),
    "wan fun": ("lora_unet__", FLAT, DOWN_UP),
    "lycoris": ("lycoris_", FLAT, DOWN_UP),
    "lycoris of diffusers": ("lycoris_", FLAT_DIFFUSERS, DOWN_UP),
    "one file, high": ("diffusion_model.transformer_1.", DIFFUSERS, AB),
    "one file, high, official": ("transformer_1.", OFFICIAL, AB),
}


def lora(prefix: str, names: dict[str, str], leaves: tuple[str, str], seed: int = 0):
    """Tensors of a file, and the same (down, up) by official name."""
    tensors: dict[str, Tensor] = {}
    pairs: dict[str, tuple[Tensor, Tensor]] = {}
    for number, (official, name) in enumerate(names.items()):
        out, inner = weight(f"{official}.weight").shape
        down, up = randn(RANK, inner, seed=number + seed), randn(out, RANK, seed=number + seed)
        pairs[official] = down, up
        tensors |= {f"{prefix}{name}.{leaves[0]}": down, f"{prefix}{name}.{leaves[1]}": up}
    return tensors, pairs


@pytest.mark.parametrize("dialect", DIALECTS)
def test_dialects(dialect: str, tmp_path: Path):
    tensors, pairs = lora(*DIALECTS[dialect])
    result = translated(tmp_path, tensors)
    assert result.unmatched == result.misfits == []
    assert result.changes.keys() == {f"{name}.weight" for name in pairs}
    for name, (down, up) in pairs.items():
        exact = weight(f"{name}.weight") + 0.5 * up.double() @ down.double()
        assert torch.allclose(changed(result, f"{name}.weight", 0.5), exact, rtol=1e-12)


@pytest.mark.parametrize(
    ("high", "low"),
    [
        ("diffusion_model.transformer_1.", "diffusion_model.transformer_2."),
        ("transformer.", "transformer_2."),
        ("lycoris_transformer_1_", "lycoris_transformer_2_"),
    ],
)
def test_both_experts_in_one_file(high: str, low: str, tmp_path: Path):
    names, leaves = (FLAT, DOWN_UP) if "lycoris" in high else (DIFFUSERS, AB)
    tensors, of_high = lora(high, names, leaves)
    more, of_low = lora(low, names, leaves, seed=50)
    for expert, pairs in (("high", of_high), ("low", of_low)):
        result = translated(tmp_path, tensors | more, expert)
        assert result.unmatched == []
        down, up = pairs[QUERY]
        exact = weight(f"{QUERY}.weight") + up.double() @ down.double()
        assert torch.allclose(changed(result, f"{QUERY}.weight"), exact, rtol=1e-12)


@pytest.mark.parametrize(
    ("key", "official", "rank"),
    [
        ("diffusion_model.blocks.0.diff_m", "blocks.0.modulation", 3),
        ("diffusion_model.blocks.0.modulation.diff", "blocks.0.modulation", 3),
        ("transformer.blocks.0.scale_shift_table.diff", "blocks.0.modulation", 3),
        ("diffusion_model.head.modulation.diff", "head.modulation", 3),
        ("diffusion_model.head.diff_m", "head.modulation", 3),
        ("transformer.scale_shift_table.diff", "head.modulation", 3),
        ("diffusion_model.blocks.0.self_attn.norm_q.diff", "blocks.0.self_attn.norm_q.weight", 1),
        ("diffusion_model.blocks.0.norm3.w_norm", "blocks.0.norm3.weight", 1),
        ("diffusion_model.time_projection.1.diff_b", "time_projection.1.bias", 1),
        ("transformer.condition_embedder.time_proj.diff_b", "time_projection.1.bias", 1),
        ("lora_unet_blocks_0_norm3.b_norm", "blocks.0.norm3.bias", 1),
    ],
)
def test_whole_differences(key: str, official: str, rank: int, tmp_path: Path):
    difference = randn(*weight(official).shape)
    assert difference.ndim == rank
    result = translated(tmp_path, {key: difference})
    exact = weight(official) + 2 * difference.double()
    assert torch.allclose(changed(result, official, 2.0), exact)
    assert result.unmatched == []


def test_patch_embedding_of_fewer_channels_changes_the_first(tmp_path: Path):
    name, difference = "patch_embedding.weight", randn(DIM, 16, 1, 2, 2)
    down, up = randn(RANK, 16, 1, 2, 2), randn(DIM, RANK, 1, 1, 1)
    product = (up.flatten(1).double() @ down.flatten(1).double()).reshape(difference.shape)
    for tensors, delta in (
        ({"patch_embedding.diff": difference}, difference.double()),
        ({"patch_embedding.lora_A.weight": down, "patch_embedding.lora_B.weight": up}, product),
    ):
        exact = weight(name)
        exact[:, :16] += delta
        assert torch.allclose(changed(translated(tmp_path, tensors), name), exact)


def test_parts_that_the_model_lacks(tmp_path: Path):
    tensors, _ = lora("diffusion_model.", OFFICIAL, AB)
    for absent in ("blocks.0.cross_attn.k_img", "img_emb.proj.1", "vace_blocks.0.self_attn.q"):
        tensors |= {f"diffusion_model.{absent}.{leaf}": randn(RANK, RANK) for leaf in AB}
    tensors["diffusion_model.blocks.7.self_attn.q.diff"] = randn(1)
    tensors["diffusion_model.blocks.0.self_attn.norm_q.diff_b"] = randn(DIM)
    tensors["diffusion_model.blocks.0.self_attn.v.diff"] = randn(DIM, DIM + 1)
    tensors["diffusion_model.blocks.0.strange"] = randn(1)
    result = translated(tmp_path, tensors)
    assert len(result.changes) == len(OFFICIAL)
    assert list(result.skipped.values()) == [2, 1]
    assert "Wan 2.1" in next(iter(result.skipped))
    assert result.misfits == ["diffusion_model.blocks.0.self_attn.v"]
    assert sorted(result.unmatched) == [
        "diffusion_model.blocks.0.self_attn.norm_q (bias)",
        "diffusion_model.blocks.0.strange",
        "diffusion_model.blocks.7.self_attn.q",
    ]


NO_LORAS = {
    "blocks.0.self_attn.q_loras.down.weight": "a Stand-In file",
    "transformer.double_blocks.0.img_attn.qkv.lora_A.weight": "a LoRA for Flux or Hunyuan",
    "lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": "a LoRA for Flux or Hunyuan",
    "transformer.transformer_blocks.0.attn1.to_q.lora_A.weight": "a LoRA for LTX",
    "lora_unet_down_blocks_0_attentions_0.lora_down.weight": "a LoRA for Stable Diffusion",
    "patch_embedding.weight": "a whole model",
    "decoder.conv1.weight": "a VAE",
    "emb_params": "a textual inversion embedding",
    "something": "tensors called something",
}


@pytest.mark.parametrize("key", NO_LORAS)
def test_other_files_are_named(key: str, tmp_path: Path):
    tensors = {key: randn(RANK, DIM)}
    if "lora_A" in key or "lora_down" in key:
        other = key.replace("lora_A", "lora_B").replace("lora_down", "lora_up")
        tensors[other] = randn(DIM, RANK)
    with pytest.raises(CheckpointError, match=NO_LORAS[key]):
        translated(tmp_path, tensors)


def test_a_model_of_another_size(tmp_path: Path):
    tensors = {f"blocks.0.self_attn.q.{AB[0]}": randn(RANK, 5)}
    tensors[f"blocks.0.self_attn.q.{AB[1]}"] = randn(5, RANK)
    with pytest.raises(CheckpointError, match="another size"):
        translated(tmp_path, tensors)
