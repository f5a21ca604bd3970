"""Files that are made for few steps, by names that people have, headers and tensors."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from wan_model.lora import open_lora
from wan_model.presets import Alpha, marks, presets, recognise

NAMES = [
    ("lora", "wan2.2_t2v_lightx2v_4steps_lora_v1.1_high_noise.safetensors", "t2v", 4, 5),
    (
        "lora",
        "Wan_2_2_I2V_A14B_HIGH_lightx2v_4step_lora_260412_rank_64_fp16.safetensors",
        "i2v",
        4,
        5,
    ),
    ("lora", "Wan21_T2V_14B_lightx2v_cfg_step_distill_lora_rank32.safetensors", "t2v", 4, 5),
    ("lora", "Wan2.2-Lightning_I2V-A14B-4steps-lora_HIGH_fp16.safetensors", "i2v", 4, 5),
    ("lora", "wan2.2-tiny-t2v-8step-high-noise.safetensors", "t2v", 8, 5),
    ("lora", "Seko-V2.0/high_noise_model.safetensors", "t2v", 4, 5),
    ("lora", "Wan2_2_5B_FastWanFullAttn_lora_rank_128_bf16.safetensors", "ti2v", 3, 8),
    ("lora", "Wan22_TI2V_5B_Turbo_lora_rank_64_fp16.safetensors", "ti2v", 4, 5),
    ("lora", "Wan21_T2V_14B_rCM_lora_average_rank_83.safetensors", "t2v", 4, 5),
    ("model", "Wan2.2-I2V-A14B_NVFP4_Sparse_high_comfy.safetensors", "i2v", 4, 7),
    ("model", "Wan2.2-T2V-A14B_NVFP4_Sparse_low_comfy.safetensors", "t2v", 4, 5),
    ("model", "DasiwaWAN22I2V14BLightspeed_synthseductionHighV9.safetensors", "i2v", 4, 5),
    ("model", "smoothMixWan2214BI2V_i2vV20High.safetensors", "i2v", 4, 5),
    ("model", "wan2.2-i2v-rapid-aio-v10.safetensors", "i2v", 4, 8),
    ("model", "Wan2.2_Remix_I2V_high_lighting_v3.0.safetensors", "i2v", 8, 8),
    ("model", "TurboWan2.2-I2V-A14B-high-720P.safetensors", "i2v", 4, 5),
    ("model", "some_dmd2_wan.gguf", "t2v", 4, 5),
    ("model", "wan_turbo_high.safetensors", "t2v", 4, 5),
    ("model", "merge_6steps_high.safetensors", "t2v", 6, 5),
    ("lora", "wan_high_6_steps.safetensors", "t2v", 6, 5),
    ("lora", "my_distilled_high.safetensors", "t2v", 4, 5),
]

OTHERS = [
    ("model", "wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors"),
    ("model", "wan22-tiny-i2v-low-noise.safetensors"),
    ("lora", "lightning_bolt_style.safetensors"),
    ("lora", "smoothmix_animations_e20.safetensors"),
    ("lora", "remix_culture_wan22.safetensors"),
    ("lora", "dance-e4_step2000_high.safetensors"),
    ("lora", "walk_high_2000steps.safetensors"),
    ("lora", "wan22_cinematic_lighting_high_noise.safetensors"),
    ("lora", "wan2.2_relighting_lora.safetensors"),
    ("lora", "wan2.2_i2v_lighting_high.safetensors"),
    ("lora", "turbo_car.safetensors"),
    ("lora", "turbo-s_porsche_wan.safetensors"),
    ("lora", "2step_dance.safetensors"),
    ("lora", "style_e4_steps.safetensors"),
    ("lora", "wan_style_e4_steps.safetensors"),
    ("lora", "wan_dedistilled.safetensors"),
    ("lora", "wan_de-distilled.safetensors"),
    ("lora", "wan_undistilled.safetensors"),
    ("model", "wan2.2_t2v_high_noise_non-turbo.safetensors"),
    ("model", "wan2.2_t2v_non-distilled.safetensors"),
    ("lora", "SVI_v2_PRO_Wan2.2-I2V-A14B_HIGH_lora_rank_128_fp16.safetensors"),
]


@pytest.mark.parametrize(("of", "name", "kind", "steps", "shift"), NAMES)
def test_names_that_tell(of, name, kind, steps, shift):
    found = recognise(name, of)
    assert found is not None
    values = found.values(kind)
    assert (values.count, values.shift, values.cfg_high, values.cfg_low) == (steps, shift, 1, 1)
    assert values.sampler == ("lcm" if "FastWan" in name else "euler")
    assert f"{name} is " in found.describe()


@pytest.mark.parametrize(("of", "name"), OTHERS)
def test_names_that_do_not(of, name):
    assert recognise(name, of) is None


def test_headers_and_tensors_tell_of_files_that_were_renamed(tmp_path: Path):
    title = {"modelspec.title": "Wan2.2 lightx2v 4 steps"}
    found = recognise("a.safetensors", "lora", title)
    assert found is not None
    assert found.sign == "the title in it"

    sparse = "blocks.0.self_attn.attn_op.local_attn.proj_l.weight"
    found = recognise("a.safetensors", "model", tensors=[sparse])
    assert found is not None
    assert "rCM" in found.describe()

    path = tmp_path / "renamed.safetensors"
    for stored, distilled in ((torch.int64, True), (torch.float32, False)):
        tensors = {
            "diffusion_model.blocks.0.ffn.0.lora_down.weight": torch.zeros(64, 4),
            "diffusion_model.blocks.0.ffn.0.lora_up.weight": torch.zeros(4, 64),
            "diffusion_model.blocks.0.ffn.0.alpha": torch.tensor(8, dtype=stored),
        }
        save_file(tensors, path)
        assert (open_lora(path).distilled is not None) == distilled
    assert (
        recognise("a.safetensors", "lora", alphas=[Alpha(64, 8, "I64"), Alpha(32, 8, "I64")])
        is None
    )


def test_every_row_and_preset_has_a_source_and_known_names():
    assert all(mark.what for mark in marks())
    known = {"base", "distilled", "low distilled"}
    assert {preset.needs for preset in presets().values()} <= known
    assert len({preset.name for preset in presets().values()}) == len(presets())
