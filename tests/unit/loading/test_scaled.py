"""Every spelling of scaled weights dequantizes to exactly the stored codes times scale."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

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
    write_raw,
)
from wan_model import detect, load_dit
from wan_model.errors import CheckpointError
from wan_model.quant import DEQUANTIZED, SCALED, Linear, QuantPolicy
from wan_model.quant.kernels import MatmulKernel, kernels_for

CONVROT_IN_PARAMS = {"format": "int8_tensorwise", "params": {"convrot": True}}
E4M3, E5M2, INT8 = torch.float8_e4m3fn, torch.float8_e5m2, torch.int8


def expected_weight(state: State, leaf: str) -> torch.Tensor:
    """Codes times scale, written out independently of the library."""
    codes, scale = state[f"{LAYER}.weight"].float(), state[f"{LAYER}.{leaf}"]
    rows, columns = codes.shape
    if scale.numel() == 1:
        return codes * scale.item()
    blocks = scale.numel() // rows
    return codes * scale.reshape(rows, blocks).repeat_interleave(columns // blocks, dim=1)


@pytest.mark.parametrize(
    ("shape", "leaf"),
    [
        ("tensor", "scale_weight"),
        ("one", "weight_scale"),
        ("row", "scale_weight"),
        ("flat row", "weight_scale"),
        ("block", "weight_scale"),
    ],
)
@pytest.mark.parametrize("dtype", [E4M3, E5M2, INT8], ids=str)
def test_scales_of_every_shape(shape: str, leaf: str, dtype: torch.dtype, tmp_path: Path):
    state = scaled(dit_state(), leaf=leaf, shape=shape, dtype=dtype)
    model = load_dit(save(tmp_path / "a.safetensors", state))
    module = model.get_submodule(LAYER)
    assert module.format is SCALED[module.weight.dtype]
    assert module.weight.dtype == dtype
    assert module.weight_scale.dtype == torch.float32
    assert torch.equal(dense(model, LAYER), expected_weight(state, leaf))
    error = (dense(model, LAYER) - dit_state()[f"{LAYER}.weight"]).abs().max()
    assert error < 0.25 * dit_state()[f"{LAYER}.weight"].abs().max()
    assert model.precision.compute_dtype == torch.bfloat16


def legacy_comfy(state: State) -> State:
    state = scaled(state, leaf="scale_weight")
    inputs = {f"{layer}.scale_input": torch.tensor(1.0) for layer in block_layers(state)}
    return state | inputs | {"scaled_fp8": torch.zeros(2, dtype=E4M3)}


def legacy_comfy_with_fp8_matmul(state: State) -> State:
    return scaled(state, leaf="scale_weight") | {"scaled_fp8": torch.empty(0)}


def comfy_notes(state: State) -> State:
    state = scaled(state)
    mark = {"format": "float8_e4m3fn", "full_precision_matrix_mult": True}
    for layer in block_layers(state):
        state[f"{layer}.comfy_quant"] = note(mark)
        state[f"{layer}.input_scale"] = torch.tensor(0.5)
    return state


def comfy_prefix(state: State) -> State:
    return {f"model.diffusion_model.{key}": t for key, t in legacy_comfy(state).items()}


@pytest.mark.parametrize(
    "spell", [legacy_comfy, legacy_comfy_with_fp8_matmul, comfy_notes, comfy_prefix]
)
def test_comfyui_spellings(spell, tmp_path: Path):
    file = save(tmp_path / "a.safetensors", spell(dit_state()))
    assert detect(file).format == "fp8 scaled"
    model = load_dit(file)
    plain = scaled(dit_state())
    assert torch.equal(dense(model, LAYER), expected_weight(plain, "weight_scale"))
    out = model(value("x", (1, 16, 1, 4, 4)), torch.tensor([500.0]), value("ctx", (1, 3, 64)))
    assert out.isfinite().all()


@pytest.mark.parametrize(
    ("spell", "exact"),
    [
        (legacy_comfy, True),
        (comfy_notes, True),
        (comfy_prefix, True),
        (legacy_comfy_with_fp8_matmul, False),
        (scaled, False),
    ],
)
def test_full_precision_is_a_files_wish_that_only_a_person_overrules(spell, exact, tmp_path: Path):
    file = save(tmp_path / "a.safetensors", spell(dit_state()))
    kernels = kernels_for(SCALED[E4M3])[:1]
    automatic = QuantPolicy(device=torch.device("cpu"), kernels=kernels)
    named, eight_bit = replace(automatic, target=SCALED[E4M3]), replace(automatic, eight_bit=True)
    for policy, dequantized in ((automatic, exact), (named, False), (eight_bit, False)):
        model = load_dit(file, weights=policy)
        layers = [layer for layer in model.blocks.modules() if isinstance(layer, Linear)]
        assert {layer.matmul == DEQUANTIZED for layer in layers} == {dequantized}
    assert detect(file).full_precision == exact


def test_one_layers_note_holds_for_it_alone(tmp_path: Path):
    state = comfy_notes(dit_state())
    free, *others = block_layers(state)
    state[f"{free}.comfy_quant"] = note({"format": "float8_e4m3fn"})
    file = save(tmp_path / "a.safetensors", state)
    policy = QuantPolicy(device=torch.device("cpu"), kernels=kernels_for(SCALED[E4M3])[:1])
    model = load_dit(file, weights=policy)
    assert model.get_submodule(free).matmul != DEQUANTIZED
    assert all(model.get_submodule(layer).matmul == DEQUANTIZED for layer in others)
    assert not detect(file).full_precision


def test_what_is_not_of_8_bits_stays_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(MatmulKernel, "_failed_trial", lambda *_: None)
    state, plain = comfy_notes(dit_state()), dit_state()
    wide, *others = block_layers(state)
    del state[f"{wide}.weight_scale"], state[f"{wide}.input_scale"], state[f"{wide}.comfy_quant"]
    state[f"{wide}.weight"] = plain[f"{wide}.weight"].bfloat16()
    file = save(tmp_path / "a.safetensors", state)
    assert detect(file).full_precision
    for name, dequantized in (("auto", True), ("auto, 8 bit", False)):
        model = load_dit(file, weights=name, compute_device="cuda")
        layer = model.get_submodule(wide)
        assert torch.equal(layer.weight, state[f"{wide}.weight"])
        found = {model.get_submodule(other).matmul == DEQUANTIZED for other in others}
        assert found == {dequantized}


def test_notes_in_the_metadata(tmp_path: Path):
    state = scaled(dit_state())
    layers = {layer: {"format": "float8_e4m3fn"} for layer in block_layers(state)}
    text = json.dumps({"format_version": "1.0", "layers": layers})
    file = save(tmp_path / "a.safetensors", state, {"_quantization_metadata": text})
    assert torch.equal(dense(load_dit(file), LAYER), expected_weight(state, "weight_scale"))


def test_layers_outside_the_blocks_may_be_scaled_too(tmp_path: Path):
    state = scaled(dit_state())
    head = state["head.head.weight"]
    state["head.head.weight"] = head.to(E4M3)
    state["head.head.weight_scale"] = torch.tensor(0.5)
    patch = state["patch_embedding.weight"]
    state["patch_embedding.weight"] = patch.to(E4M3)
    state["patch_embedding.weight_scale"] = torch.tensor(0.25)
    model = load_dit(save(tmp_path / "a.safetensors", state))
    assert torch.equal(dense(model, "head.head"), head.to(E4M3).float() * 0.5)
    assert torch.equal(model.patch_embedding.weight, patch.to(E4M3).float() * 0.25)


def test_scaled_16_bit_weights_are_scaled_as_well(tmp_path: Path):
    state = dit_state(dtype=torch.float16)
    state[f"{LAYER}.weight_scale"] = torch.tensor(2.0)
    model = load_dit(save(tmp_path / "a.safetensors", state), dtype=torch.bfloat16)
    assert torch.equal(dense(model, LAYER), state[f"{LAYER}.weight"].float() * 2)


def test_mixed_precision_is_described(tmp_path: Path):
    state = scaled(dit_state(dtype=torch.bfloat16))
    for layer in block_layers(state):
        if layer.startswith("blocks.0."):
            state[f"{layer}.weight"] = dit_state(dtype=torch.bfloat16)[f"{layer}.weight"]
            del state[f"{layer}.weight_scale"]
    file = save(tmp_path / "a.safetensors", state)
    assert detect(file).format == "mixed (fp8 scaled, bf16)"
    model = load_dit(file)
    assert model.get_submodule("blocks.0.ffn.0").weight.dtype == torch.bfloat16
    assert model.get_submodule(LAYER).weight.dtype == E4M3


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("shape", ["tensor", "row", "block"])
def test_scales_that_are_not_finite_are_refused(bad: float, shape: str, tmp_path: Path):
    state = scaled(dit_state(), shape=shape)
    state[f"{LAYER}.weight_scale"].view(-1)[-1] = bad
    with pytest.raises(CheckpointError, match=rf"broken scales\. Got {bad} in {LAYER}"):
        load_dit(save(tmp_path / "a.safetensors", state))


@pytest.mark.parametrize("shape", [(0,), (2,), (512, 2), (512, 3, 1), (512, 4, 2), (256, 1)])
def test_scales_that_fit_nothing_are_refused(shape: tuple[int, ...], tmp_path: Path):
    state = scaled(dit_state()) | {f"{LAYER}.weight_scale": torch.ones(shape)}
    with pytest.raises(CheckpointError, match=r"wrong shape.* need \[1\], \[512, 1\]"):
        load_dit(save(tmp_path / "a.safetensors", state))


def test_a_missing_scale_is_refused(tmp_path: Path):
    state = scaled(dit_state())
    del state[f"{LAYER}.weight_scale"]
    with pytest.raises(CheckpointError, match=rf"1 quantized weights without one \({LAYER}"):
        load_dit(save(tmp_path / "a.safetensors", state))


def test_int8_without_scales_is_refused(tmp_path: Path):
    state = {key: t.to(INT8) if t.ndim == 2 else t for key, t in dit_state().items()}
    with pytest.raises(CheckpointError, match="quantized weights without one"):
        load_dit(save(tmp_path / "a.safetensors", state))


def test_two_scales_of_one_layer_are_refused(tmp_path: Path):
    state = scaled(dit_state()) | {f"{LAYER}.scale_weight": torch.tensor(1.0)}
    with pytest.raises(CheckpointError, match=r"1 doubled keys .*scale_weight"):
        load_dit(save(tmp_path / "a.safetensors", state))


def test_a_scale_without_layer_is_refused(tmp_path: Path):
    state = scaled(dit_state()) | {"blocks.1.norm3.weight_scale": torch.tensor(1.0)}
    with pytest.raises(CheckpointError, match=r"1 unexpected \(blocks\.1\.norm3\.weight_scale"):
        load_dit(save(tmp_path / "a.safetensors", state))


@pytest.mark.parametrize(
    ("extra", "name"),
    [
        ({f"{LAYER}.weight_global_scale": torch.tensor(1.0)}, "nvfp4 of LightX2V"),
        ({f"{LAYER}.weight_scale": torch.ones(512, 16).to(E4M3)}, "F8_E4M3 tensors"),
        ({"head.head.weight_scale": torch.ones(64, 8, dtype=torch.uint8)}, "U8 tensors"),
        ({f"{LAYER}.comfy_quant": note({"format": "svdquant_w4a4"})}, "svdquant_w4a4"),
        (
            {f"{LAYER}.comfy_quant": note(CONVROT_IN_PARAMS)},
            "int8_tensorwise with convrot in groups of 256 for F8_E4M3 weights",
        ),
        ({f"{LAYER}.pre_quant_scale": torch.ones(256)}, r"AWQ \(pre_quant_scale\) of another"),
        ({f"{LAYER}.qweight": torch.zeros(4, 4, dtype=torch.int32)}, r"int4 \(GPTQ or AWQ\)"),
        ({f"{LAYER}.weight._data": torch.zeros(4, 4, dtype=torch.int8)}, "quanto int8"),
        ({f"{LAYER}._weight_qdata": torch.zeros(4, 4, dtype=torch.int8)}, "torchao int8"),
        ({f"{LAYER}.SCB": torch.zeros(4)}, "bitsandbytes int8"),
        ({f"{LAYER}.weight_format": torch.zeros(1, dtype=torch.uint8)}, "bitsandbytes int8"),
        ({f"{LAYER}.weight.absmax": torch.zeros(4)}, "bitsandbytes of 4 bits"),
        ({f"{LAYER}.weight.quant_map": torch.zeros(4)}, "bitsandbytes of 4 bits"),
        ({f"{LAYER}.int8_weight": torch.zeros(4, 4, dtype=torch.int8)}, "int8 of TurboDiffusion"),
        ({f"{LAYER}.weight": torch.zeros(512, 128, dtype=torch.uint8)}, "U8 tensors"),
        ({f"{LAYER}.bias": torch.zeros(512, dtype=torch.int8)}, "I8 tensors"),
    ],
)
def test_other_weight_formats_are_named(extra: State, name: str, tmp_path: Path):
    file = save(tmp_path / "a.safetensors", scaled(dit_state()) | extra)
    (key,) = extra
    for read in (detect, load_dit):
        with pytest.raises(CheckpointError, match=f"not supported yet. Got {name}.* in {key}"):
            read(file)


@pytest.mark.parametrize("layers", [{"x": {"format": "mxfp4"}}, {"x": "mxfp4"}])
def test_other_weight_formats_are_found_in_the_metadata(layers: dict, tmp_path: Path):
    metadata = {"_quantization_metadata": json.dumps({"layers": layers})}
    with pytest.raises(CheckpointError, match="Got mxfp4 in x"):
        detect(save(tmp_path / "a.safetensors", scaled(dit_state()), metadata))


def test_damaged_notes_are_refused(tmp_path: Path):
    state = scaled(dit_state()) | {f"{LAYER}.comfy_quant": torch.zeros(3, dtype=torch.uint8)}
    with pytest.raises(CheckpointError, match="damaged quantization note"):
        detect(save(tmp_path / "a.safetensors", state))


def test_unaligned_tensors_are_read(tmp_path: Path):
    """safetensors sorts what it writes by alignment; others put notes of odd length in between."""
    state = comfy_notes(dit_state())
    header, data = {}, b"!"
    header["scaled_fp8"] = {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}
    names = {torch.float32: "F32", E4M3: "F8_E4M3", torch.uint8: "U8"}
    for key, tensor in state.items():
        raw = tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()
        span = [len(data), len(data) + len(raw)]
        entry = {"dtype": names[tensor.dtype], "shape": list(tensor.shape), "data_offsets": span}
        header[key] = entry
        data += raw
    model = load_dit(write_raw(tmp_path / "a.safetensors", header, data))
    assert torch.equal(dense(model, LAYER), expected_weight(state, "weight_scale"))
    weight = model.text_embedding[0].weight
    assert weight.data_ptr() % 4 == 0
    assert torch.equal(weight, state["text_embedding.0.weight"])
