"""Checkpoints with small scales per block, as ComfyUI's own kernel library makes them."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import comfy_kitchen
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.parity.diffusers_names import RENAMED
from tests.parity.recipe import value
from tests.unit.loading.checkpoints import (
    LAYER,
    State,
    block_layers,
    dense,
    dit_state,
    in_blocks,
    note,
    save,
    vae_state,
)
from tests.unit.loading.test_weights import SOURCES, velocity
from tests.unit.offload.fakes import plan_for
from wan_model import detect, load_dit, load_vae
from wan_model.errors import CheckpointError
from wan_model.loading import open_checkpoint, unchanged_regions
from wan_model.offload import HostModel, OffloadEngine, open_device
from wan_model.quant import PLAIN, QuantPolicy, StoredWeight, policy_for
from wan_model.quant.formats import MXFP8 as MXFP8_FORMAT
from wan_model.writing import converted_file

FORMATS = ["nvfp4", "mxfp8"]
LIMITS = {"nvfp4": 0.11, "mxfp8": 0.032}


def by_the_library(state: State, name: str, layer: str = LAYER) -> Tensor:
    """A layer's weight, dequantized by ComfyUI's kernel library."""
    codes, scale = state[f"{layer}.weight"], state[f"{layer}.weight_scale"]
    if name == "mxfp8":
        return comfy_kitchen.dequantize_mxfp8(codes, scale, torch.float32)
    second = state[f"{layer}.weight_scale_2"]
    return comfy_kitchen.dequantize_nvfp4(codes, second, scale, torch.float32)


@pytest.mark.parametrize("name", FORMATS)
def test_the_codes_are_those_of_comfyui(name: str, tmp_path: Path) -> None:
    state = in_blocks(dit_state(), name)
    file = save(tmp_path / "a.safetensors", state)
    info, model = detect(file), load_dit(file)
    assert (info.format, info.kind) == (name, "t2v")
    assert info.parameters == sum(tensor.numel() for tensor in dit_state().values())
    assert torch.equal(dense(model, LAYER), by_the_library(state, name))
    assert model.precision.compute_dtype == torch.bfloat16
    dequantized = dit_state() | {
        f"{layer}.weight": by_the_library(state, name, layer) for layer in block_layers(dit_state())
    }
    same = velocity(load_dit(save(tmp_path / "b.safetensors", dequantized), dtype=torch.float32))
    got = velocity(load_dit(file, dtype=torch.float32))
    assert (got - same).norm() < 3e-5 * same.norm()
    exact = velocity(load_dit(save(tmp_path / "c.safetensors", dit_state())))
    assert 0 < (got - exact).norm() < LIMITS[name] * exact.norm()


def as_bytes(state: State) -> State:
    """Scales as older files have them."""
    return {
        key: tensor.view(torch.uint8) if key.endswith(".weight_scale") else tensor
        for key, tensor in state.items()
    }


def prefixed(state: State) -> State:
    return {f"model.diffusion_model.{key}": tensor for key, tensor in state.items()}


@pytest.mark.parametrize("change", [as_bytes, prefixed])
@pytest.mark.parametrize("name", FORMATS)
def test_other_spellings(change: Callable[[State], State], name: str, tmp_path: Path) -> None:
    state = in_blocks(dit_state(), name)
    model = load_dit(save(tmp_path / "a.safetensors", change(state)))
    assert torch.equal(dense(model, LAYER), by_the_library(state, name))


def with_prefix(name: str) -> str:
    return f"model.diffusion_model.{name}"


def of_diffusers(name: str) -> str:
    for official, theirs in RENAMED:
        name = f"{name}.".replace(official, theirs).removesuffix(".")
    return name


@pytest.mark.parametrize("rename", [str, with_prefix, of_diffusers])
@pytest.mark.parametrize("name", FORMATS)
def test_notes_in_the_metadata(name: str, rename: Callable[[str], str], tmp_path: Path) -> None:
    state = in_blocks(dit_state(), name)
    layers = {rename(layer): {"format": name} for layer in block_layers(dit_state())}
    state = {rename(k): tensor for k, tensor in state.items() if not k.endswith("comfy_quant")}
    metadata = {"_quantization_metadata": json.dumps({"layers": layers})}
    assert detect(save(tmp_path / "a.safetensors", state, metadata)).format == name


def test_layers_outside_of_the_blocks(tmp_path: Path) -> None:
    state, name = dit_state(), "text_embedding.2"
    fp4 = in_blocks({f"blocks.{name}.weight": state[f"{name}.weight"]}, "nvfp4")
    state |= {key.removeprefix("blocks."): tensor for key, tensor in fp4.items()}
    file = save(tmp_path / "a.safetensors", state)
    exact = by_the_library(state, "nvfp4", name)
    assert torch.equal(dense(load_dit(file), name), exact)
    converted = load_dit(converted_file(file, "fp8", tmp_path / "cache"))
    assert torch.equal(dense(converted, name), exact)


def without(state: State, leaf: str) -> State:
    return {key: tensor for key, tensor in state.items() if key != f"{LAYER}.{leaf}"}


NVFP4, MXFP8 = (in_blocks(dit_state(), name) for name in FORMATS)
SCALES = NVFP4[f"{LAYER}.weight_scale"]
BROKEN = {
    "no note": (without(NVFP4, "comfy_quant"), "Got nvfp4 without ComfyUI's notes in blocks"),
    "no exponents' note": (without(MXFP8, "comfy_quant"), "mxfp8 without ComfyUI's notes"),
    "no second scale": (without(NVFP4, "weight_scale_2"), r"lacks scales. Got 1 quantized"),
    "no scale": (without(NVFP4, "weight_scale"), "Got U8 tensors in blocks"),
    "other note": (
        NVFP4 | {f"{LAYER}.comfy_quant": note({"format": "mxfp8"})},
        r"contradicts itself. Got the note mxfp8 in .*, nvfp4. Choose",
    ),
    "note without tensors": (
        dit_state() | {f"{LAYER}.comfy_quant": note({"format": "nvfp4"})},
        "contradicts itself. Got the note nvfp4",
    ),
    "no tiles": (
        NVFP4 | {f"{LAYER}.weight_scale": SCALES.view(torch.uint8)[:, :5].contiguous()},
        r"scale of a wrong shape. Got \[512, 5\] .*need \[512, 16\] for .* \[512, 256\]",
    ),
    "two tensors' scales": (
        NVFP4 | {f"{LAYER}.weight_scale_2": torch.ones(2)},
        r"scale of a wrong shape. Got \[2\]",
    ),
    "NaN": (
        NVFP4 | {f"{LAYER}.weight_scale": torch.full_like(SCALES.float(), torch.nan).to(SCALES)},
        "broken scales. Got nan in blocks",
    ),
    "NaN for all": (
        NVFP4 | {f"{LAYER}.weight_scale_2": torch.tensor(torch.inf)},
        "broken scales. Got inf in blocks",
    ),
    "NaN exponents": (
        MXFP8 | {f"{LAYER}.weight_scale": torch.full((512, 8), 255, dtype=torch.uint8)},
        "broken scales. Got nan in blocks",
    ),
    "too narrow": (
        NVFP4 | {f"{LAYER}.weight": NVFP4[f"{LAYER}.weight"][:, :64].contiguous()},
        r"wrong shape. Got \[512, 16\] .*need \[512, 8\] for a weight of shape \[512, 128\]",
    ),
    "orphan": (
        dit_state() | {f"{LAYER}.weight_scale_2": torch.tensor(1.0)},
        r"1 unexpected \(blocks.1.ffn.0.weight_scale_2",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_refused(case: str, tmp_path: Path) -> None:
    state, message = BROKEN[case]
    with pytest.raises(CheckpointError, match=message):
        load_dit(save(tmp_path / "a.safetensors", state))


def test_vaes_have_wide_weights(tmp_path: Path) -> None:
    name = "decoder.conv1"
    wide = {f"blocks.{name}.weight": value("w", (128, 256))}
    state = vae_state("2.1") | {
        key.removeprefix("blocks."): tensor for key, tensor in in_blocks(wide, "nvfp4").items()
    }
    with pytest.raises(CheckpointError, match="Got nvfp4 of a vae in decoder"):
        load_vae(save(tmp_path / "a.safetensors", state))


@pytest.mark.parametrize("name", FORMATS)
def test_weights_stream_from_the_file(name: str, tmp_path: Path) -> None:
    file = save(tmp_path / "a.safetensors", in_blocks(dit_state(), name))
    resident, model = load_dit(file), load_dit(file)
    regions = unchanged_regions(model, open_checkpoint(file))
    leaves = ["weight", "weight_scale"] + ["weight_scale_2"] * (name == "nvfp4")
    state = model.state_dict()
    for leaf in leaves:
        tensor, region = state[f"{LAYER}.{leaf}"], regions[f"{LAYER}.{leaf}"]
        assert (region.dtype, region.nbytes) == (tensor.dtype, tensor.nbytes)
    host = HostModel(model, model.blocks, regions)
    engine = OffloadEngine([host], plan_for(host, blocks_to_swap=2), open_device("cpu"))
    latent, text = value("x", (1, 16, 1, 4, 4)), value("ctx", (1, 3, 64))
    with torch.inference_mode():
        inputs = (latent, torch.tensor([500.0]), text, None)
        got = engine.run(0, lambda run: model.velocity(*inputs, run))
    # Tensors that are aligned differently are added up in another order.
    assert (got - velocity(resident)).norm() < 2e-3 * got.norm()
    engine.unload()


@pytest.mark.parametrize("source", ["fp8", "fp8 scaled", "fp16", "mxfp8"])
def test_fp8_codes_without_small_scales_are_not_read_as_mxfp8(source: str, tmp_path: Path) -> None:
    policy = QuantPolicy(device=torch.device("cpu"), target=MXFP8_FORMAT)
    checkpoint = open_checkpoint(save(tmp_path / "a.safetensors", SOURCES[source]))
    model = load_dit(checkpoint, weights=policy)
    assert model.get_submodule(LAYER).format is MXFP8_FORMAT
    regions = unchanged_regions(model, checkpoint)
    assert (f"{LAYER}.weight" in regions) == (source == "mxfp8")


ODD_SHAPES = [(512,), (), (0, 256), (512, 0), (2, 256, 1)]


@pytest.mark.parametrize(
    ("target", "shape"),
    [*itertools.product(["nvfp4 storage", "fp8"], ODD_SHAPES), ("nvfp4 storage", (512, 250))],
)
def test_what_cannot_be_converted_is_left_to_the_loader(
    target: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    state = dit_state() | {f"{LAYER}.weight": torch.zeros(shape)}
    file = save(tmp_path / "a.safetensors", state)
    assert converted_file(file, target, tmp_path / "cache").path == file
    with pytest.raises(CheckpointError, match=LAYER):
        load_dit(file, weights=target)


def test_rows_that_are_no_whole_blocks_stay_as_they_are() -> None:
    policy = policy_for("nvfp4 storage", torch.device("cpu"))
    fp32 = PLAIN[torch.float32]
    assert not policy.takes(StoredWeight(fp32, torch.zeros(32, 40)))
    assert policy.takes(StoredWeight(fp32, torch.zeros(32, 48)))


def test_a_converted_layer_is_one_that_comfyui_reads(tmp_path: Path) -> None:
    source = save(tmp_path / "a.safetensors", dit_state())
    file = converted_file(source, "nvfp4 storage", tmp_path / "cache").path
    assert detect(file).format == "nvfp4"
    state = load_file(file)
    in_file, before = (
        sum(tensor.nbytes for key, tensor in each.items() if key.startswith("blocks."))
        for each in (state, dit_state())
    )
    assert in_file < 0.15 * before
    assert bytes(state[f"{LAYER}.comfy_quant"]) == b'{"format": "nvfp4"}'
    got = dense(load_dit(file), LAYER)
    assert torch.equal(got, by_the_library(state, "nvfp4"))
    theirs, exact = dense(load_dit(save(tmp_path / "b.safetensors", NVFP4)), LAYER), dit_state()
    errors = [(weight - exact[f"{LAYER}.weight"]).norm() for weight in (got, theirs)]
    assert errors[0] < 0.93 * errors[1]
