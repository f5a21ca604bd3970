"""Files of the newest quantizers, and notes that say nothing of weights."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import comfy_kitchen
import comfy_kitchen.tensor as kitchen
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.parity.recipe import value
from tests.unit.loading.checkpoints import (
    LAYER,
    State,
    block_layers,
    dense,
    dit_state,
    note,
    save,
    scaled,
)
from tests.unit.loading.test_weights import velocity
from tests.unit.offload.fakes import plan_for
from wan_model import detect, load_dit
from wan_model.errors import CheckpointError
from wan_model.loading import open_checkpoint, unchanged_regions
from wan_model.offload import HostModel, OffloadEngine, open_device
from wan_model.writing import converted_file

Quantized = tuple[State, Tensor]
"""What a file holds of a layer, by leaf; the weight that this stands for."""


def convrot(weight: Tensor, size: int, *, in_params: bool = False) -> Quantized:
    codes, params = kitchen.TensorWiseINT8Layout.quantize(
        weight, per_channel=True, convrot=True, convrot_groupsize=size
    )
    said = {"convrot": True} | ({} if size == 256 else {"convrot_groupsize": size})
    said = {"params": said} if in_params else said
    parts = {"weight": codes, "weight_scale": params.scale}
    exact = kitchen.TensorWiseINT8Layout.dequantize(codes, params)
    return parts | {"comfy_quant": note({"format": "int8_tensorwise"} | said)}, exact


def convrot_w4a4(weight: Tensor) -> Quantized:
    codes, params = kitchen.TensorCoreConvRotW4A4Layout.quantize(weight)
    exact = kitchen.TensorCoreConvRotW4A4Layout.dequantize(codes, params)
    said = note({"format": "convrot_w4a4", "convrot_groupsize": 256, "linear_dtype": "int8"})
    return {"weight": codes, "weight_scale": params.scale, "comfy_quant": said}, exact


def asym_w4a8_int8(weight: Tensor) -> Quantized:
    layout = kitchen.AsymW4A8Int8Layout
    codes, params = layout.quantize(weight, convrot_groupsize=64)
    parts = layout.state_dict_tensors(codes, params)
    said = {"format": "asym_w4a8_int8", "group_size": 16, "convrot_groupsize": 64}
    named = {f"weight{leaf}": tensor for leaf, tensor in parts.items()}
    return named | {"comfy_quant": note(said)}, layout.dequantize(codes, params)


def smoothed_nvfp4(weight: Tensor) -> Quantized:
    smooth = value("smooth", (weight.shape[1],)).abs().add(0.1).bfloat16()
    smoothed = weight / smooth
    scale = smoothed.abs().amax() / (6 * 448)
    codes, scales = comfy_kitchen.quantize_nvfp4(smoothed, scale)
    exact = comfy_kitchen.dequantize_nvfp4(codes, scale, scales, torch.float32) * smooth
    parts = {"weight": codes, "weight_scale": scales, "weight_scale_2": scale}
    return parts | {"pre_quant_scale": smooth, "comfy_quant": note({"format": "nvfp4"})}, exact


def in_tiles(weight: Tensor, side: int, dtype: torch.dtype, called: str | None) -> Quantized:
    """Square tiles with a scale each, as convert_to_quant and DeepSeek have them."""
    tiles = weight.double().unflatten(0, (-1, side)).unflatten(2, (-1, side))
    largest = 127 if dtype == torch.int8 else 448
    scale = (tiles.abs().amax((1, 3)) / largest).float()
    codes = tiles / scale[:, None, :, None]
    codes = codes.round().to(dtype) if dtype == torch.int8 else codes.float().to(dtype)
    exact = (codes.double() * scale.double()[:, None, :, None]).flatten(2).flatten(0, 1)
    parts = {"weight": codes.flatten(2).flatten(0, 1), "weight_scale": scale}
    said = {"format": called, "group_size": side}
    return parts | ({} if called is None else {"comfy_quant": note(said)}), exact.float()


def fp8_by_row(weight: Tensor) -> Quantized:
    scale = weight.abs().amax(1, keepdim=True) / 448
    codes = (weight / scale).to(torch.float8_e4m3fn)
    said = note({"format": "float8_e4m3fn_rowwise"})
    return {"weight": codes, "weight_scale": scale, "comfy_quant": said}, codes.float() * scale


FILES: dict[str, tuple[str, Callable[[Tensor], Quantized]]] = {
    "convrot": ("int8 convrot", lambda w: convrot(w, 256)),
    "convrot 64": ("int8 convrot 64", lambda w: convrot(w, 64)),
    "convrot in params": ("int8 convrot 64", lambda w: convrot(w, 64, in_params=True)),
    "convrot_w4a4": ("int4 convrot", convrot_w4a4),
    "asym_w4a8_int8": ("w4a8 convrot 64", asym_w4a8_int8),
    "nvfp4 pre_quant_scale": ("nvfp4", smoothed_nvfp4),
    "rowwise": ("fp8 scaled", fp8_by_row),
    "int8_blockwise": ("int8 scaled", lambda w: in_tiles(w, 64, torch.int8, "int8_blockwise")),
    "int8 tiles": ("int8 scaled", lambda w: in_tiles(w, 128, torch.int8, None)),
    "fp8 tiles": ("fp8 scaled", lambda w: in_tiles(w, 128, torch.float8_e4m3fn, None)),
}
"""By name: what `detect` calls it, and how a layer is stored."""


def quantized(make: Callable[[Tensor], Quantized]) -> tuple[State, dict[str, Tensor]]:
    """A transformer whose blocks' layers are stored so, and their exact weights."""
    state, exact = dit_state(), {}
    for layer in block_layers(state):
        parts, exact[layer] = make(state[f"{layer}.weight"])
        state |= {f"{layer}.{leaf}": tensor for leaf, tensor in parts.items()}
    return state, exact


@pytest.mark.parametrize("name", FILES)
def test_weights_are_exact_and_stream_packed(name: str, tmp_path: Path) -> None:
    label, make = FILES[name]
    state, exact = quantized(make)
    file = save(tmp_path / "a.safetensors", state)
    checkpoint = open_checkpoint(file)
    assert (checkpoint.info.format, checkpoint.info.kind) == (label, "t2v")
    assert checkpoint.info.parameters == sum(tensor.numel() for tensor in dit_state().values())
    model = load_dit(checkpoint, dtype=torch.float32)
    for layer, weight in exact.items():
        assert (dense(model, layer) - weight).norm() < 3e-7 * weight.norm()
    wide = {f"{layer}.weight": weight for layer, weight in exact.items()}
    expected = velocity(load_dit(save(tmp_path / "b.safetensors", dit_state() | wide)))
    assert (velocity(model) - expected).norm() < 3e-5 * expected.norm()
    regions = unchanged_regions(model, checkpoint)
    assert regions[f"{LAYER}.weight"].nbytes == state[f"{LAYER}.weight"].nbytes
    host = HostModel(model, model.blocks, regions)
    engine = OffloadEngine([host], plan_for(host, blocks_to_swap=2), open_device("cpu"))
    inputs = value("x", (1, 16, 1, 4, 4)), torch.tensor([500.0]), value("ctx", (1, 3, 64)), None
    with torch.inference_mode():
        got = engine.run(0, lambda run: model.velocity(*inputs, run))
    assert (got - expected).norm() < 3e-5 * expected.norm()
    engine.unload()


def test_a_converted_convrot_file_is_one_that_comfyui_reads(tmp_path: Path) -> None:
    source = save(tmp_path / "a.safetensors", dit_state())
    file = converted_file(source, "int8 convrot", tmp_path / "cache").path
    state = load_file(file)
    said = json.loads(bytes(state[f"{LAYER}.comfy_quant"]))
    assert said == {"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": 256}
    params = kitchen.TensorWiseINT8Layout.Params(
        scale=state[f"{LAYER}.weight_scale"],
        orig_dtype=torch.float32,
        orig_shape=(512, 256),
        convrot=True,
    )
    theirs = kitchen.TensorWiseINT8Layout.dequantize(state[f"{LAYER}.weight"], params)
    assert torch.allclose(dense(load_dit(file), LAYER), theirs, atol=1e-6)
    exact = dit_state()[f"{LAYER}.weight"]
    assert (theirs - exact).norm() < 0.01 * exact.norm()


@cache
def convrot_state() -> State:
    return quantized(FILES["convrot"][1])[0]


@cache
def w4a8_state() -> State:
    return quantized(FILES["asym_w4a8_int8"][1])[0]


def groups_of(size: object) -> State:
    said = {"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": size}
    return convrot_state() | {f"{LAYER}.comfy_quant": note(said)}


BROKEN: dict[str, tuple[Callable[[], State], str]] = {
    "unknown group": (lambda: groups_of(32), "Got int8_tensorwise with convrot in groups of 32"),
    "no size": (lambda: groups_of("x"), "with convrot in groups of -1"),
    "no scale": (
        lambda: {k: t for k, t in convrot_state().items() if k != f"{LAYER}.weight_scale"},
        "lacks scales. Got 1 quantized weights",
    ),
    "codebook": (
        lambda: w4a8_state() | {f"{LAYER}.weight_codebook": torch.ones(8)},
        r"scale of a wrong shape. Got \[8\] in .*need \[16\]",
    ),
    "row scales": (
        lambda: w4a8_state() | {f"{LAYER}.weight_s_channel": torch.ones(3)},
        r"scale of a wrong shape. Got \[3\] in .*s_channel, need \[512\]",
    ),
    "groups": (
        lambda: w4a8_state() | {f"{LAYER}.weight_s_rel": torch.ones(512, 7)},
        r"scale of a wrong shape. Got \[512, 7\] in .*s_rel",
    ),
    "tiles": (
        lambda: scaled(dit_state()) | {f"{LAYER}.weight_scale": torch.ones(2, 4)},
        r"scale of a wrong shape. Got \[2, 4\]",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_refused(case: str, tmp_path: Path) -> None:
    make, message = BROKEN[case]
    with pytest.raises(CheckpointError, match=message):
        load_dit(save(tmp_path / "a.safetensors", make()))


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_what_is_no_weight_is_left_out(prefix: str, tmp_path: Path) -> None:
    state = dit_state()
    for part in ("self_attn", "cross_attn"):
        wish = note({"attention": "comfy_kitchen_int8"})
        state[f"blocks.0.{part}.comfy_attention.config"] = wish
    assert detect(save(tmp_path / "a.safetensors", state)).remarks == ()
    branch = "blocks.0.self_attn.attn_op.local_attn.proj_l"
    state |= {f"{branch}.weight": torch.zeros(128, 128), f"{branch}.bias": torch.zeros(128)}
    file = save(tmp_path / "b.safetensors", {f"{prefix}{k}": t for k, t in state.items()})
    (remark,) = detect(file).remarks
    assert "sparse-linear attention" in remark
    expected = velocity(load_dit(save(tmp_path / "c.safetensors", dit_state())))
    assert (velocity(load_dit(file)) - expected).norm() < 2e-6 * expected.norm()
