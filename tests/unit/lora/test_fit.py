"""Whether a LoRA file fits a model, by its header."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from wan_model.config import DiTConfig
from wan_model.lora import is_foreign, open_lora

A14B = DiTConfig(
    dim=5120, ffn_dim=13824, num_heads=40, num_layers=40, in_channels=16, out_channels=16
)
TI2V = DiTConfig(
    dim=3072, ffn_dim=14336, num_heads=24, num_layers=30, in_channels=48, out_channels=48
)
SIZES = {"lora_A.weight": (1, 5120), "lora_B.weight": (5120, 1), "alpha": ()}
DIFFUSERS = "transformer.blocks.3.attn1.to_q."
KOHYA = "lora_unet_blocks_35_cross_attn_k."
QUERY = "diffusion_model.blocks.0.self_attn.q."
CASES: list[tuple[str, dict[str, tuple[int, ...]], bool, bool]] = [
    ("A14B", {QUERY + leaf: size for leaf, size in SIZES.items()}, False, True),
    ("diffusers", {DIFFUSERS + leaf: size for leaf, size in SIZES.items()}, False, True),
    (
        "ffn of 5B",
        {
            "blocks.2.ffn.0.lora_down.weight": (2, 3072),
            "blocks.2.ffn.0.lora_up.weight": (14336, 2),
            "blocks.2.ffn.0.diff_b": (14336,),
        },
        True,
        False,
    ),
    (
        "LoKr",
        {
            f"{KOHYA}lokr_w1": (4, 4),
            f"{KOHYA}lokr_w2": (1280, 1280),
            "lora_unet_blocks_3_self_attn_v.lokr_w1": (8, 8),
            "lora_unet_blocks_3_self_attn_v.lokr_w2": (640, 640),
        },
        False,
        True,
    ),
    ("beyond 5B's blocks: not certain", {f"{KOHYA}diff_b": (5120,)}, False, False),
    (
        "one fits each",
        {
            **{f"transformer_1.blocks.0.self_attn.q.{leaf}": size for leaf, size in SIZES.items()},
            "transformer_2.blocks.0.self_attn.q.lora_A.weight": (1, 3072),
            "transformer_2.blocks.0.self_attn.q.lora_B.weight": (3072, 1),
        },
        False,
        False,
    ),
    ("no block's matrix: not certain", {"head.head.diff": (64, 5120)}, False, False),
]


@pytest.mark.parametrize(("name", "tensors", "on_a14b", "on_5b"), CASES)
def test_a_file_is_foreign_only_if_that_is_certain(
    tmp_path: Path, name: str, tensors: dict[str, tuple[int, ...]], on_a14b: bool, on_5b: bool
):
    path = tmp_path / "lora.safetensors"
    state = {key: torch.ones(size, dtype=torch.float16) for key, size in tensors.items()}
    save_file(state, path)
    file = open_lora(path)

    assert (is_foreign(file, A14B), is_foreign(file, TI2V)) == (on_a14b, on_5b), name
