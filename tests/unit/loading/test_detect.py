"""What `detect` says of files, and what it refuses."""

import dataclasses
import json
import math
import os
from pathlib import Path

import pytest
import torch

from tests.parity.recipe import GOLDEN
from tests.unit.loading.checkpoints import (
    LAYER,
    dit_state,
    save,
    save_sharded,
    scaled,
    to_fp8,
    umt5_state,
    vae_state,
    write_raw,
)
from wan_model import detect, load_dit, load_vae
from wan_model.config import DiTConfig, VaeConfig
from wan_model.errors import CheckpointError
from wan_model.loading import TextEncoderConfig, guess_expert, guess_pair, open_checkpoint

SIZES = {"F32": 4, "BF16": 2, "F8_E4M3": 1}


def real_file(folder: Path, name: str, shapes: dict[str, list[int]], dtype: str) -> Path:
    """A file with the recorded keys of a released model, whose data is a hole."""
    header: dict[str, dict] = {}
    end = 0
    for key, shape in shapes.items():
        quantized = dtype.startswith("F8") and key.startswith("blocks.") and len(shape) == 2
        stored = dtype if quantized or not dtype.startswith("F8") else "F32"
        tensors = {key: (stored, shape)}
        if quantized:
            tensors[key.removesuffix("weight") + "weight_scale"] = ("F32", [])
        for tensor, (spelling, sides) in tensors.items():
            start, end = end, end + math.prod(sides) * SIZES[spelling]
            header[tensor] = {"dtype": spelling, "shape": sides, "data_offsets": [start, end]}
    file = write_raw(folder / name, header)
    os.truncate(file, file.stat().st_size + end)
    return file


def recorded(keys: str, part: str = "") -> dict[str, list[int]]:
    shapes = json.loads((GOLDEN / f"{keys}.json").read_text())
    return shapes[part] if part else shapes


@pytest.mark.parametrize(
    ("keys", "name", "dtype", "label", "parameters"),
    [
        (
            "dit_keys_i2v",
            "wan2.2_i2v_high_noise_14B_fp8_scaled.safetensors",
            "F8_E4M3",
            "I2V-A14B, high noise, fp8 scaled",
            14_288_901_184,
        ),
        (
            "dit_keys_t2v",
            "Wan2_2-T2V-A14B-LOW_bf16.safetensors",
            "BF16",
            "T2V-A14B, low noise, bf16",
            14_288_491_584,
        ),
        ("dit_keys_t2v", "wan.safetensors", "F32", "T2V-A14B, fp32", 14_288_491_584),
        ("dit_keys_ti2v", "5B_high.safetensors", "BF16", "TI2V-5B, bf16", 4_999_787_712),
    ],
)
def test_released_transformers(
    keys: str, name: str, dtype: str, label: str, parameters: int, tmp_path: Path
):
    info = detect(real_file(tmp_path, name, recorded(keys), dtype))
    assert info.label == label
    assert info.parameters == parameters
    assert isinstance(info.config, DiTConfig)
    assert info.config.num_heads == info.config.dim // 128


@pytest.mark.parametrize(
    ("part", "label", "parameters", "config"),
    [
        (
            "2.1",
            "Wan 2.1 VAE, fp32",
            126_892_531,
            VaeConfig(variant="wan2.1", encoder_dim=96, decoder_dim=96, z_dim=16),
        ),
        (
            "2.2",
            "Wan 2.2 VAE, fp32",
            704_688_668,
            VaeConfig(variant="wan2.2", encoder_dim=160, decoder_dim=256, z_dim=48),
        ),
    ],
)
def test_released_vaes(part: str, label: str, parameters: int, config: VaeConfig, tmp_path: Path):
    info = detect(real_file(tmp_path, "vae.safetensors", recorded("vae_keys", part), "F32"))
    assert (info.label, info.parameters, info.config) == (label, parameters, config)
    assert (info.kind, info.expert) == (None, None)


def test_toy_transformer(tmp_path: Path):
    state = {f"model.diffusion_model.{key}": t for key, t in dit_state("i2v").items()}
    file = save(tmp_path / "toy_low.safetensors", state)
    info = detect(str(file))
    assert info.label == "I2V (dim 256, 2 layers), low noise, fp32"
    assert info.path == file
    assert info.bytes == 4 * info.parameters == sum(4 * t.numel() for t in state.values())
    with pytest.raises(dataclasses.FrozenInstanceError):
        info.bytes = 0  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("state", "name"),
    [
        (dit_state(dtype=torch.float16), "fp16"),
        (dit_state(dtype=torch.float64), "fp64"),
        (to_fp8(dit_state()), "fp8"),
        (to_fp8(dit_state(), torch.float8_e5m2), "fp8 e5m2"),
        (scaled(dit_state(), dtype=torch.float8_e5m2), "fp8 e5m2 scaled"),
        (scaled(dit_state(), dtype=torch.int8, shape="row"), "int8 scaled"),
    ],
)
def test_weight_formats_are_named(state: dict, name: str, tmp_path: Path):
    assert detect(save(tmp_path / "a.safetensors", state)).format == name


def test_scales_do_not_count_as_parameters(tmp_path: Path):
    plain = detect(save(tmp_path / "a.safetensors", dit_state()))
    small = detect(save(tmp_path / "b.safetensors", scaled(dit_state(), shape="block")))
    assert small.parameters == plain.parameters
    assert small.bytes < plain.bytes


def test_text_encoders(tmp_path: Path):
    state = umt5_state(torch.float16) | {"spiece_model": torch.zeros(9, dtype=torch.uint8)}
    info = detect(save(tmp_path / "umt5_high.safetensors", state))
    assert info.config == TextEncoderConfig(dim=64, num_layers=3, num_heads=4, vocab_size=512)
    assert info.label == "text encoder (dim 64, 3 layers), fp16"
    assert (info.component, info.kind, info.expert) == ("text_encoder", None, None)


def test_the_released_text_encoder(tmp_path: Path):
    shapes = {"shared.weight": [256384, 4096]}
    for block in range(24):
        layer = f"encoder.block.{block}.layer.0.SelfAttention"
        shapes[f"{layer}.relative_attention_bias.weight"] = [32, 64]
        shapes[f"{layer}.q.weight"] = [4096, 4096]
    info = detect(real_file(tmp_path, "umt5_xxl_bf16.safetensors", shapes, "BF16"))
    assert info.label == "umT5-xxl text encoder, bf16"


def test_text_encoders_with_official_names_or_scales(tmp_path: Path):
    official = {
        "token_embedding.weight": torch.zeros(512, 64),
        "blocks.0.pos_embedding.embedding.weight": torch.zeros(32, 4),
        "blocks.0.ffn.gate.0.weight": torch.zeros(128, 64),
    }
    info = detect(save(tmp_path / "a.safetensors", official))
    assert info.config == TextEncoderConfig(dim=64, num_layers=1, num_heads=4, vocab_size=512)
    state = umt5_state(torch.float16)
    for key in [key for key in state if "SelfAttention." in key and "bias" not in key]:
        state[key] = state[key].to(torch.float8_e4m3fn)
        state[key.replace(".weight", ".scale_weight")] = torch.tensor(1.0)
    state["scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
    assert detect(save(tmp_path / "b.safetensors", state)).format == "fp8 scaled"


@pytest.mark.parametrize(
    ("path", "expert"),
    [
        ("wan2.2_t2v_high_noise_14B_fp16.safetensors", "high"),
        ("wan2.2_t2v_lownoise_14B.safetensors", "low"),
        ("Wan2.2-I2V-A14B-HighNoise-Q8.safetensors", "high"),
        ("Wan2_2-I2V-A14B-LOW_fp8_e4m3fn_scaled_KJ.safetensors", "low"),
        ("wan2.2_i2v_A14b_high_noise_scaled_fp8_e4m3_lightx2v_4step.safetensors", "high"),
        ("remixHighV2.safetensors", "high"),
        ("low_noise_model/diffusion_pytorch_model.safetensors", "low"),
        ("high_noise_model/model-00001-of-00006.safetensors", "high"),
        ("slow_motion_flow.safetensors", None),
        ("highland.safetensors", None),
        ("high_and_low_merge.safetensors", None),
        ("wan2.2_t2v_14B.safetensors", None),
        ("High/model.safetensors", "high"),
        ("high quality/wan22_L.safetensors", None),
        ("Low VRAM/wan22_H.safetensors", None),
        ("high_quality_low_noise.safetensors", "low"),
    ],
)
def test_the_expert_is_guessed_from_the_name(path: str, expert: str | None):
    assert guess_expert(Path("models") / path) == expert


@pytest.mark.parametrize(
    ("high", "low", "experts"),
    [
        ("high quality/wan22_H", "high quality/wan22_L", (None, None)),
        ("Low VRAM/wan22_H", "Low VRAM/wan22_L", (None, None)),
        ("low_vram_H", "low_vram_L", (None, None)),
        ("wan_high", "wan_low", ("high", "low")),
        ("wan_low", "wan_high", ("low", "high")),
        ("wan high/model", "wan low/model", ("high", "low")),
        ("low_noise_model/a", "high_noise_model/a", ("low", "high")),
        ("a_high_noise", "b_high_noise", ("high", "high")),
        ("low vram/a_high", "low vram/b", ("high", None)),
    ],
)
def test_bare_words_tell_two_files_apart_where_they_differ(
    high: str, low: str, experts: tuple[str | None, str | None]
):
    assert guess_pair(Path(f"{high}.safetensors"), Path(f"{low}.safetensors")) == experts


def test_the_expert_of_a_diffusers_pipeline(tmp_path: Path):
    for name in ("transformer", "transformer_2"):
        (tmp_path / "two" / name).mkdir(parents=True)
    (tmp_path / "one" / "transformer").mkdir(parents=True)
    assert guess_expert(tmp_path / "two" / "transformer") == "high"
    assert guess_expert(tmp_path / "two" / "transformer_2" / "a.safetensors") == "low"
    assert guess_expert(tmp_path / "one" / "transformer") is None


@pytest.mark.parametrize(
    ("extra", "what"),
    [
        ("img_emb.proj.0.bias", r"Wan 2\.1 image-to-video"),
        ("blocks.0.cross_attn.k_img.weight", r"Wan 2\.1 image-to-video"),
        ("vace_patch_embedding.weight", "VACE"),
        ("vace_blocks.0.ffn.0.weight", "VACE"),
        ("control_adapter.conv.weight", "Fun camera control"),
        ("ref_conv.weight", "Fun control"),
        ("casual_audio_encoder.encoder.final_linear.weight", "S2V"),
        ("face_adapter.fuser_blocks.0.k_norm.weight", "Animate"),
        ("audio_proj.audio_proj_glob_1.layer.bias", "HuMo"),
        ("audio_proj.proj1.weight", "audio-driven"),
        ("blocks.0.self_attn.q.lora_A.weight", "a LoRA.*LoRA loader"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_relatives_of_wan_are_refused_by_name(extra: str, what: str, prefix: str, tmp_path: Path):
    state = {prefix + key: tensor for key, tensor in dit_state().items()}
    state[prefix + extra] = torch.zeros(2)
    file = save(tmp_path / "a.safetensors", state)
    for read in (detect, load_dit):
        with pytest.raises(CheckpointError, match=f"^a.safetensors is not a supported.*{what}"):
            read(file)


@pytest.fixture(scope="module")
def all_in_one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As ComfyUI saves a pipeline; fp8 with notes of all parts in the metadata."""
    dit = scaled(dit_state())
    parts = {
        "model.diffusion_model.": dit,
        "vae.": vae_state("2.1"),
        "text_encoders.umt5xxl.transformer.": umt5_state(),
        "text_encoders.umt5xxl.": {"logit_scale": torch.zeros(())},
        "text_encoders.": {"spiece_model": torch.zeros(9, dtype=torch.uint8)},
    }
    state = {prefix + key: t for prefix, part in parts.items() for key, t in part.items()}
    layers = {f"model.diffusion_model.{LAYER}": {"format": "float8_e4m3fn"}}
    layers["clip_vision.head"] = {"format": "nvfp4"}
    metadata = {"_quantization_metadata": json.dumps({"layers": layers})}
    return save(tmp_path_factory.mktemp("aio") / "aio.safetensors", state, metadata)


def test_an_all_in_one_file_is_its_parts(all_in_one: Path):
    info = detect(all_in_one)
    assert (info.kind, info.format, info.expert) == ("t2v", "fp8 scaled", None)
    assert info.parameters == sum(tensor.numel() for tensor in dit_state().values())
    assert torch.equal(load_dit(all_in_one).head.head.weight, dit_state()["head.head.weight"])
    vae = load_vae(all_in_one).state_dict()
    assert all(torch.equal(vae[key], tensor) for key, tensor in vae_state("2.1").items())
    encoder = open_checkpoint(all_in_one, "text_encoder")
    assert encoder.info.config == TextEncoderConfig(
        dim=64, num_layers=3, num_heads=4, vocab_size=512
    )
    assert set(encoder.extras) == {"spiece_model"}
    assert encoder.entries.keys() == umt5_state().keys()


def test_an_all_in_one_file_may_lack_a_part(tmp_path: Path):
    state = {f"model.diffusion_model.{key}": tensor for key, tensor in dit_state().items()}
    state["text_encoders.clip_l.x"] = torch.zeros(2)
    file = save(tmp_path / "a.safetensors", state)
    assert load_dit(file).config.dim == 256
    with pytest.raises(CheckpointError, match=r"an all-in-one file without a VAE. Got no .*vae\."):
        load_vae(file)
    with pytest.raises(CheckpointError, match=r"not a supported model. Got an unknown model"):
        open_checkpoint(file, "text_encoder")


@pytest.mark.parametrize(
    ("key", "what"),
    [
        ("double_blocks.0.img_attn.qkv.weight", "Got Flux"),
        ("model.diffusion_model.input_blocks.0.0.weight", "Got Stable Diffusion,"),
        ("model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight", "Stable Diffusion 3"),
        ("transformer_blocks.0.attn.to_q.weight", "diffusers model of another family"),
        ("adaln_single.linear.weight", "LTX-Video"),
        ("encoder.block.0.layer.0.SelfAttention.q.weight", "T5 text encoder without"),
        ("text_model.encoder.layers.0.mlp.fc1.weight", "CLIP text encoder"),
        ("model.layers.0.self_attn.q_proj.weight", "language model"),
        ("decoder.up.0.block.0.conv1.weight", "image VAE"),
        ("lora_unet_blocks_0_self_attn_q.lora_down.weight", "a LoRA"),
        ("something.new", r"unknown model with keys such as something\.new"),
    ],
)
def test_strangers_are_refused_by_name(key: str, what: str, tmp_path: Path):
    file = save(tmp_path / "a.safetensors", {key: torch.zeros(2)})
    with pytest.raises(CheckpointError, match=what):
        detect(file)


def test_an_empty_checkpoint_is_refused(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"keys such as \(none\)"):
        detect(save(tmp_path / "a.safetensors", {}))


def test_the_wrong_component_is_refused(tmp_path: Path):
    dit = save(tmp_path / "dit.safetensors", dit_state())
    vae = save(tmp_path / "vae.safetensors", vae_state("2.1"))
    t5 = save(tmp_path / "t5.safetensors", umt5_state())
    with pytest.raises(
        CheckpointError, match=r"Got a VAE \(Wan 2\.1 VAE, fp32\), need a diffusion model\."
    ):
        load_dit(vae)
    with pytest.raises(CheckpointError, match=r"Got a text encoder .*need a diffusion model"):
        load_dit(t5)
    with pytest.raises(CheckpointError, match=r"Got a diffusion model \(T2V .*need a VAE"):
        load_vae(dit)


@pytest.mark.parametrize("channels", [(52, 16), (100, 48), (32, 16)])
def test_other_channel_counts_are_refused(channels: tuple[int, int], tmp_path: Path):
    state = dit_state("ti2v" if channels[1] == 48 else "t2v")
    dim = state["patch_embedding.bias"].numel()
    state["patch_embedding.weight"] = torch.zeros(dim, channels[0], 1, 2, 2)
    with pytest.raises(CheckpointError, match=rf"{channels[0]} input and {channels[1]} output"):
        detect(save(tmp_path / "a.safetensors", state))


def test_odd_widths_are_refused(tmp_path: Path):
    state = dit_state()
    state["patch_embedding.weight"] = torch.zeros(192, 16, 1, 2, 2)
    with pytest.raises(CheckpointError, match=r"Got width 192.*multiple of 128"):
        detect(save(tmp_path / "a.safetensors", state))


@pytest.mark.parametrize(
    "text",
    [
        *("[]", "{", "[" * 9999, " " * (1 << 21)),
        *(f'{{"num_heads": {heads}}}' for heads in ("0", '"x"', "0.5", "-1", "true", "1e400")),
    ],
)
def test_a_broken_config_is_refused(text: str, tmp_path: Path):
    save(tmp_path / "model.safetensors", dit_state())
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json .*(does not fit|cannot be used)"):
        detect(tmp_path)


def test_only_headers_are_read(tmp_path: Path):
    """Works on shards whose data is noise."""
    index = save_sharded(tmp_path, dit_state())
    for shard in tmp_path.glob("*.safetensors"):
        raw = bytearray(shard.read_bytes())
        start = 8 + int.from_bytes(raw[:8], "little")
        raw[start:] = b"\xff" * (len(raw) - start)
        shard.write_bytes(raw)
    assert detect(index).label == "T2V (dim 256, 2 layers), fp32"


def test_an_opened_checkpoint_is_not_read_again(tmp_path: Path):
    file = save(tmp_path / "a.safetensors", dit_state())
    checkpoint = open_checkpoint(file)
    raw = file.read_bytes()
    header_end = 8 + int.from_bytes(raw[:8], "little")
    file.write_bytes(b"\xff" * header_end + raw[header_end:])
    assert detect(checkpoint).label == "T2V (dim 256, 2 layers), fp32"
    model = load_dit(checkpoint)
    assert torch.equal(model.head.modulation, dit_state()["head.modulation"])
    with pytest.raises(CheckpointError, match="is damaged"):
        detect(file)
