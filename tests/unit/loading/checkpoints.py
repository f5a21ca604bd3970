"""Tiny checkpoints of every kind for the tests of `wan_model.loading`."""

import json
import struct
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import comfy_kitchen
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.parity.recipe import value, weight
from tests.toy.make_checkpoints import Kind, dit_shapes
from wan_model.config import VaeConfig
from wan_model.vae import build_vae

State = dict[str, Tensor]

LAYERS = 2
GOLDEN_LAYERS = 3

LAYER = "blocks.1.ffn.0"
"""The linear layer that most tests look at: 512 rows of 256."""


@cache
def cached_dit_state(kind: Kind, layers: int) -> State:
    shapes = dit_shapes(kind, dim=384 if kind == "ti2v" else 256, layers=layers)
    return {key: weight(key, shape) for key, shape in shapes.items()}


def dit_state(
    kind: Kind = "t2v", dtype: torch.dtype = torch.float32, layers: int = LAYERS
) -> State:
    """A transformer with the golden recipe's weights. The tensors are shared: do not write."""
    return {key: tensor.to(dtype) for key, tensor in cached_dit_state(kind, layers).items()}


def vae_state(variant: str, dtype: torch.dtype = torch.float32) -> State:
    config = VaeConfig(
        variant="wan2.2" if variant == "2.2" else "wan2.1",
        encoder_dim=8,
        decoder_dim=12 if variant == "2.2" else 8,
        z_dim=48 if variant == "2.2" else 16,
    )
    with torch.device("meta"):
        shapes = {key: tensor.shape for key, tensor in build_vae(config).state_dict().items()}
    return {key: weight(key, shape).to(dtype) for key, shape in shapes.items()}


def umt5_state(dtype: torch.dtype = torch.float32) -> State:
    state = {"shared.weight": value("shared", (512, 64))}
    for block in range(3):
        layer = f"encoder.block.{block}.layer.0"
        for part in "qkvo":
            state[f"{layer}.SelfAttention.{part}.weight"] = value(part, (64, 64))
        state[f"{layer}.SelfAttention.relative_attention_bias.weight"] = value("bias", (32, 4))
        state[f"{layer}.layer_norm.weight"] = value("norm", (64,))
    return {key: tensor.to(dtype) for key, tensor in state.items()}


def block_layers(state: Mapping[str, Tensor]) -> list[str]:
    """Names of the linear layers of the blocks."""
    return [
        key.removesuffix(".weight")
        for key, tensor in state.items()
        if key.startswith("blocks.") and key.endswith(".weight") and tensor.ndim == 2
    ]


def to_fp8(state: State, dtype: torch.dtype = torch.float8_e4m3fn) -> State:
    """Block weights cast to fp8, all else as it was."""
    layers = set(block_layers(state))
    return {
        key: tensor.to(dtype) if key.removesuffix(".weight") in layers else tensor
        for key, tensor in state.items()
    }


def scaled(
    state: State,
    *,
    leaf: str = "weight_scale",
    shape: str = "tensor",
    dtype: torch.dtype = torch.float8_e4m3fn,
) -> State:
    """Quantizes the block weights; `shape` is tensor, one, row, flat row or block."""
    state = dict(state)
    for layer in block_layers(state):
        dense = state[f"{layer}.weight"].float()
        rows, columns = dense.shape
        blocks = 4 if shape == "block" else 1
        grouped = dense.view(rows, blocks, columns // blocks)
        axes = (0, 1, 2) if shape in ("tensor", "one") else (2,)
        largest = 127 if dtype == torch.int8 else torch.finfo(dtype).max
        scale = grouped.abs().amax(dim=axes, keepdim=True) / largest
        codes = (grouped / scale).view(rows, columns)
        state[f"{layer}.weight"] = (codes.round() if dtype == torch.int8 else codes).to(dtype)
        state[f"{layer}.{leaf}"] = scale.reshape(
            {"tensor": (), "one": (1,), "row": (rows, 1), "flat row": (rows,)}.get(
                shape, (rows, blocks, 1)
            )
        )
    return state


def in_blocks(state: State, name: str) -> State:
    """Block weights in nvfp4 or mxfp8, made by ComfyUI's kernel library, with ComfyUI's notes."""
    state = dict(state)
    for layer in block_layers(state):
        dense = state[f"{layer}.weight"].float()
        if name == "nvfp4":
            scale = dense.abs().amax() / (6 * 448)
            codes, scales = comfy_kitchen.quantize_nvfp4(dense, scale)
            state[f"{layer}.weight_scale_2"] = scale
        else:
            codes, scales = comfy_kitchen.quantize_mxfp8(dense)
        state[f"{layer}.weight"], state[f"{layer}.weight_scale"] = codes, scales
        state[f"{layer}.comfy_quant"] = note({"format": name})
    return state


def note(text: Any) -> Tensor:
    """A JSON note as the uint8 tensor that ComfyUI stores."""
    return torch.frombuffer(bytearray(json.dumps(text).encode()), dtype=torch.uint8)


def save(path: Path, state: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, path, metadata)
    return path


def save_sharded(folder: Path, state: State, shards: int = 3) -> Path:
    """Writes shards and index, and returns the index."""
    folder.mkdir(parents=True, exist_ok=True)
    keys = list(state)
    weight_map = {}
    for shard in range(shards):
        name = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = {key: state[key] for key in keys[shard::shards]}
        save(folder / name, part)
        weight_map |= dict.fromkeys(part, name)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return index


def write_raw(path: Path, header: Any, data: bytes = b"") -> Path:
    """Writes a file with any header: text, or something to dump as JSON."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def dense(model: nn.Module, layer: str) -> Tensor:
    """The weight that a linear layer multiplies with, in fp32."""
    module = model.get_submodule(layer)
    return module.stored().dequantize(torch.float32)
