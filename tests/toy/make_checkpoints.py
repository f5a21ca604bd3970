"""Writes toy Wan2.2 checkpoints: the real architecture and key names, tiny widths, random weights.

`python -m tests.toy.make_checkpoints FOLDER` fills FOLDER like a ComfyUI `models` folder, in a few
seconds and the same on every run. The keys come from the official state dicts recorded beside the
golden tensors. Two sets of transformers are made: `toy_*` fit the toy text encoder, `toy4096_*`
take text of width 4096, the only one that ComfyUI's own Wan model knows.
"""

import argparse
import json
import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from .text_encoder import umt5_shapes, umt5_tokenizer

Shapes = Mapping[str, tuple[int, ...]]
State = dict[str, Tensor]
Kind = Literal["t2v", "i2v", "ti2v"]

RECORDED_KEYS = Path(__file__).parents[1] / "parity" / "golden"

DIM = 256
"""Hidden width of the toy transformers: two heads of 128."""
FFN_DIM = 512
LAYERS = 2
TEXT_DIM = 64
STOCK_TEXT_DIM = 4096

OFFICIAL_TEXT_DIM = 4096
OFFICIAL_WIDTHS = {"t2v": (5120, 13824), "i2v": (5120, 13824), "ti2v": (3072, 14336)}
"""(dim, ffn_dim) of the recorded state dicts."""

LORA_RANK = 4

TRANSFORMERS: dict[str, Kind] = {
    "t2v_high_noise": "t2v",
    "t2v_low_noise": "t2v",
    "i2v_high_noise": "i2v",
    "i2v_low_noise": "i2v",
    "ti2v": "ti2v",
}
STOCK_TRANSFORMERS = ("t2v_high_noise", "t2v_low_noise", "i2v_high_noise", "ti2v")

SUBSTITUTES = {
    "wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors": "toy_t2v_high_noise.safetensors",
    "wan2.2_t2v_low_noise_14B_fp8_scaled.safetensors": "toy_t2v_low_noise.safetensors",
    "wan2.2_i2v_high_noise_14B_fp8_scaled.safetensors": "toy_i2v_high_noise.safetensors",
    "wan2.2_i2v_low_noise_14B_fp8_scaled.safetensors": "toy_i2v_low_noise.safetensors",
    "wan2.2_ti2v_5B_fp16.safetensors": "toy_ti2v.safetensors",
    "umt5_xxl_fp8_e4m3fn_scaled.safetensors": "toy_umt5.safetensors",
    "umt5_xxl_fp16.safetensors": "toy_umt5.safetensors",
    "wan_2.1_vae.safetensors": "toy_wan_2.1_vae.safetensors",
    "wan2.2_vae.safetensors": "toy_wan2.2_vae.safetensors",
    "wan2.2_t2v_lightx2v_4steps_lora_v1.1_high_noise.safetensors": "toy_lora.safetensors",
    "wan2.2_t2v_lightx2v_4steps_lora_v1.1_low_noise.safetensors": "toy_lora.safetensors",
    "SVI_v2_PRO_Wan2.2-I2V-A14B_HIGH_lora_rank_128_fp16.safetensors": "toy_lora.safetensors",
    "SVI_v2_PRO_Wan2.2-I2V-A14B_LOW_lora_rank_128_fp16.safetensors": "toy_lora.safetensors",
}
"""Toy file for each file that the workflows name."""


def make_checkpoints(models: Path) -> None:
    """Writes every toy file below `models`, in the folders that ComfyUI looks in."""
    for name, kind in TRANSFORMERS.items():
        save(models, "diffusion_models", f"toy_{name}", make_dit(kind, f"toy_{name}"))
    for name in STOCK_TRANSFORMERS:
        state = make_dit(TRANSFORMERS[name], f"toy4096_{name}", text_dim=STOCK_TEXT_DIM)
        save(models, "diffusion_models", f"toy4096_{name}", state)
    high = make_dit("t2v", "toy_t2v_high_noise")
    for spelling in ("scaled_fp8", "comfy_quant"):
        scaled = scale_to_fp8(high, spelling)
        save(models, "diffusion_models", f"toy_t2v_high_noise_{spelling}", scaled)
    high = make_dit("t2v", "toy4096_t2v_high_noise", text_dim=STOCK_TEXT_DIM)
    for name in ("nvfp4", "mxfp8"):
        blocks = scale_in_blocks(high, name)
        save(models, "diffusion_models", f"toy4096_t2v_high_noise_{name}", blocks)
    save(models, "loras", "toy_lora", make_lora("toy_lora"))
    save(models, "vae", "toy_wan_2.1_vae", make_vae("2.1", "toy_wan_2.1_vae"))
    save(models, "vae", "toy_wan2.2_vae", make_vae("2.2", "toy_wan2.2_vae"))
    save(models, "text_encoders", "toy_umt5", make_text_encoder("toy_umt5"))


def save(models: Path, folder: str, name: str, state: State) -> None:
    """Writes one file, with the metadata that ComfyUI's own files carry."""
    path = models / folder / f"{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path, metadata={"format": "pt"})


def make_dit(kind: Kind, seed: str, **sizes: int) -> State:
    """Returns a transformer in fp16 with official keys.

    Args:
        kind: of it.
        seed: names its random numbers.
        sizes: as of `dit_shapes`.
    """
    return fill(dit_shapes(kind, **sizes), seed, torch.float16)


def dit_shapes(
    kind: Kind,
    *,
    text_dim: int = TEXT_DIM,
    dim: int = DIM,
    ffn_dim: int = FFN_DIM,
    layers: int = LAYERS,
) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a transformer's tensors by official key."""
    path = RECORDED_KEYS / f"dit_keys_{kind}.json"
    recorded: dict[str, list[int]] = json.loads(path.read_text())
    official_dim, official_ffn = OFFICIAL_WIDTHS[kind]
    widths: dict[int, int] = {
        official_dim: dim,
        6 * official_dim: 6 * dim,
        official_ffn: ffn_dim,
        OFFICIAL_TEXT_DIM: text_dim,
    }
    return {
        key: tuple(widths.get(size, size) for size in shape)
        for key, shape in recorded.items()
        if not key.startswith("blocks.") or int(key.split(".")[1]) < layers
    }


def make_vae(
    variant: Literal["2.1", "2.2"], seed: str, *, encoder: int = 8, decoder: int = 8
) -> State:
    """Returns a VAE in fp32 whose first encoder and last decoder stage have the widths given.

    ComfyUI's own Wan2.1 VAE has one width for both halves.
    """
    recorded = json.loads((RECORDED_KEYS / "vae_keys.json").read_text())[variant]
    official = {"2.1": (96, 96), "2.2": (160, 256)}[variant]
    widths = {"encoder": (official[0], encoder), "decoder": (official[1], decoder)}

    def shrink(key: str, size: int) -> int:
        unit, width = widths.get(key.split(".")[0], (size + 1, 0))
        return size // unit * width if size % unit == 0 else size

    shapes = {key: tuple(shrink(key, n) for n in shape) for key, shape in recorded.items()}
    return fill(shapes, seed, torch.float32)


def make_text_encoder(seed: str, *, dim: int = TEXT_DIM) -> State:
    """Returns a umT5 encoder in fp16 with the keys of transformers, its tokenizer inside."""
    tokenizer = umt5_tokenizer()
    state = fill(umt5_shapes(len(tokenizer.pieces), dim), seed, torch.float16)
    return state | {"spiece_model": torch.frombuffer(bytearray(tokenizer.model), dtype=torch.uint8)}


def make_lora(seed: str, *, dim: int = DIM, ffn_dim: int = FFN_DIM, layers: int = LAYERS) -> State:
    """Returns a LoRA for every toy transformer, in the spelling that ComfyUI saves."""
    sizes = {"self_attn.q": (dim, dim), "cross_attn.v": (dim, dim), "ffn.0": (ffn_dim, dim)}
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(layers):
        for target, (rows, columns) in sizes.items():
            key = f"diffusion_model.blocks.{layer}.{target}"
            shapes[f"{key}.lora_A.weight"] = (LORA_RANK, columns)
            shapes[f"{key}.lora_B.weight"] = (rows, LORA_RANK)
    return fill(shapes, seed, torch.float16)


def scale_to_fp8(state: State, spelling: Literal["scaled_fp8", "comfy_quant"]) -> State:
    """Returns a copy whose block weights are fp8 e4m3fn with one scale each.

    Args:
        state: a transformer.
        spelling: "scaled_fp8" is that of Comfy-Org's files of 2025, "comfy_quant" the later one.
    """
    legacy = spelling == "scaled_fp8"
    result: State = {}
    for key, tensor in state.items():
        layer = key.removesuffix(".weight")
        if not (key.startswith("blocks.") and key.endswith(".weight") and tensor.ndim == 2):
            result[key] = tensor
            continue
        scale = tensor.float().abs().max() / torch.finfo(torch.float8_e4m3fn).max
        result[key] = (tensor.float() / scale).to(torch.float8_e4m3fn)
        result[f"{layer}.scale_weight" if legacy else f"{layer}.weight_scale"] = scale
        if not legacy:
            result[f"{layer}.comfy_quant"] = json_tensor({"format": "float8_e4m3fn"})
    if legacy:
        # Two elements mark a file whose matrices are multiplied in full precision.
        result["scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
    return result


def scale_in_blocks(state: State, name: Literal["nvfp4", "mxfp8"]) -> State:
    """Returns a copy whose block weights have small scales, made by ComfyUI's kernel library."""
    # It imports Triton, which asks only then whether to interpret its kernels.
    import comfy_kitchen

    result = dict(state)
    for key, tensor in state.items():
        if not (key.startswith("blocks.") and key.endswith(".weight") and tensor.ndim == 2):
            continue
        layer, weight = key.removesuffix(".weight"), tensor.float()
        if name == "nvfp4":
            scale = weight.abs().max() / (6 * 448)
            result[key], scales = comfy_kitchen.quantize_nvfp4(weight, scale)
            result[f"{layer}.weight_scale_2"] = scale
        else:
            result[key], scales = comfy_kitchen.quantize_mxfp8(weight)
        result[f"{layer}.weight_scale"] = scales.view(torch.uint8)
        result[f"{layer}.comfy_quant"] = json_tensor({"format": name})
    return result


def json_tensor(value: object) -> Tensor:
    """Returns JSON text as the uint8 tensor that quantized files carry."""
    return torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)


def fill(shapes: Shapes, seed: str, dtype: torch.dtype) -> State:
    """Returns random weights of a scale that keeps activations near 1, one stream per key."""
    return {key: weight(key, shape, seed).to(dtype) for key, shape in shapes.items()}


def weight(key: str, shape: tuple[int, ...], seed: str) -> Tensor:
    """Returns one fp32 tensor; nothing is zero, so that no path of the model is dead."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}/{key}".encode()))
    noise = torch.randn(shape, generator=generator)
    if key.endswith("gamma") or ("norm" in key and key.endswith("weight")):
        return 1 + 0.1 * noise
    if "modulation" in key:
        return 0.3 * noise
    if "relative_attention_bias" in key or "shared" in key:
        return noise
    if len(shape) == 1:
        return 0.05 * noise
    return noise / math.sqrt(math.prod(shape[1:]))


def main() -> None:
    """Command line: one argument, the folder to fill."""
    parser = argparse.ArgumentParser(description="Write toy Wan2.2 checkpoints.")
    parser.add_argument("models", type=Path, help="a ComfyUI models folder")
    make_checkpoints(parser.parse_args().models)


if __name__ == "__main__":
    main()
