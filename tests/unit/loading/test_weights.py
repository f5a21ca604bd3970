"""Loading with the blocks' weights in a format of one's choice."""

from collections.abc import Mapping
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
    in_blocks,
    save,
    scaled,
    to_fp8,
)
from wan_model import load_dit
from wan_model.dit import WanDiT
from wan_model.errors import BackendError, SettingsError
from wan_model.loading import Checkpoint, detect, open_checkpoint, unchanged_regions
from wan_model.offload import FileRegion
from wan_model.quant import DEQUANTIZED, PLAIN, SCALED, Linear, QuantPolicy, policy_for
from wan_model.quant.formats import INT8_SCALED, NVFP4
from wan_model.quant.kernels import KERNELS, Fp8Matmul, Int8Matmul, MatmulKernel

E4M3, E5M2, INT8, BF16, FP16 = (
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.int8,
    torch.bfloat16,
    torch.float16,
)
SOURCES = {
    "fp32": dit_state(),
    "fp16": dit_state(dtype=FP16),
    "bf16": dit_state(dtype=BF16),
    "fp8": to_fp8(dit_state(dtype=FP16)),
    "fp8 e5m2": to_fp8(dit_state(dtype=FP16), E5M2),
    "fp8 scaled": scaled(dit_state(dtype=FP16)),
    "fp8 scaled per row": scaled(dit_state(dtype=FP16), shape="row"),
    "fp8 scaled per block": scaled(dit_state(dtype=FP16), shape="block"),
    "int8 scaled": scaled(dit_state(dtype=FP16), shape="row", dtype=INT8),
    "nvfp4": in_blocks(dit_state(dtype=FP16), "nvfp4"),
    "mxfp8": in_blocks(dit_state(dtype=FP16), "mxfp8"),
    "mixed": scaled(dit_state(dtype=FP16)),
}
WIDE = "blocks.1.ffn.2"
"""The layer that the mixed source keeps wide."""
del SOURCES["mixed"][f"{WIDE}.weight_scale"]
SOURCES["mixed"][f"{WIDE}.weight"] = SOURCES["fp16"][f"{WIDE}.weight"]
SOURCES["nvfp4 and fp8"] = SOURCES["nvfp4"] | {
    key: tensor for key, tensor in SOURCES["fp8 scaled"].items() if key.startswith(f"{WIDE}.")
}
for leaf in ("comfy_quant", "weight_scale_2"):
    del SOURCES["nvfp4 and fp8"][f"{WIDE}.{leaf}"]
TARGETS = {
    "bf16": (PLAIN[BF16], DEQUANTIZED, 0.005),
    "fp16": (PLAIN[FP16], DEQUANTIZED, 0.001),
    "fp8": (SCALED[E4M3], Fp8Matmul(), 0.0361),
    "fp8 storage": (SCALED[E4M3], DEQUANTIZED, 0.0361),
    "int8": (INT8_SCALED, Int8Matmul(), 0.02),
    "nvfp4 storage": (NVFP4, DEQUANTIZED, 0.12),
}
"""Storage, what multiplies, and the conversion's own rms error."""
PAIRS = [
    ("fp32", "nvfp4 storage"),
    ("fp16", "bf16"),
    ("fp16", "fp8"),
    ("bf16", "int8"),
    ("fp8", "fp8"),
    ("fp8 e5m2", "fp8"),
    ("fp8 scaled", "fp8 storage"),
    ("fp8 scaled per row", "bf16"),
    ("fp8 scaled per block", "fp8"),
    ("int8 scaled", "int8"),
    ("int8 scaled", "fp8"),
    ("nvfp4", "nvfp4 storage"),
    ("mxfp8", "fp8"),
    ("mixed", "fp8"),
    ("nvfp4 and fp8", "fp16"),
]
"""Every source and every target, with what is kept, what has the same bytes, what has none."""


def velocity(model: WanDiT) -> torch.Tensor:
    with torch.inference_mode():
        return model(value("x", (1, 16, 1, 4, 4)), torch.tensor([500.0]), value("ctx", (1, 3, 64)))


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_any_format_becomes_any_other(source: str, target: str, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(save(tmp_path / "a.safetensors", SOURCES[source]))
    stored, model = load_dit(checkpoint), load_dit(checkpoint, weights=target)
    wanted, matmul, limit = TARGETS[target]
    layer = model.get_submodule(LAYER)
    assert layer.format is wanted
    by_block = source == "fp8 scaled per block" and wanted is SCALED[E4M3]
    assert layer.matmul == (DEQUANTIZED if by_block else matmul)
    before, after = dense(stored, LAYER), dense(model, LAYER)
    assert (after - before).norm() <= limit * before.norm()
    if is_kept(source, target):
        assert torch.equal(after, before)
    exact = velocity(load_dit(checkpoint, dtype=torch.float32))
    assert (velocity(model) - exact).norm() < (0.15 if limit > 0.1 else 0.05) * exact.norm()
    for loaded, kept in ((stored, True), (model, is_kept(source, target))):
        regions = checked_regions(loaded, checkpoint, SOURCES[source])
        assert (f"{LAYER}.weight" in regions) == kept


def checked_regions(
    model: WanDiT, checkpoint: Checkpoint, state: State
) -> Mapping[str, FileRegion]:
    """Returns what is read in place of tensors: the bytes of the file, of all that it holds."""
    regions = unchanged_regions(model, checkpoint)
    raw, loaded = checkpoint.path.read_bytes(), model.state_dict()
    for name, region in regions.items():
        assert loaded[name].dtype == region.dtype, name
        assert bytes_of(loaded[name]) == raw[region.offset : region.offset + region.nbytes], name
    memory_only = {name for name in loaded.keys() - regions.keys() if not name.endswith("_scale")}
    for name in memory_only & state.keys():
        assert loaded[name].dtype != state[name].dtype or state is SOURCES["mxfp8"], name
    return regions


@pytest.mark.parametrize("target", TARGETS)
def test_only_the_blocks_matrices_are_converted(target: str, tmp_path: Path) -> None:
    state = dit_state()
    model = load_dit(save(tmp_path / "a.safetensors", state), weights=target)
    layers = set(block_layers(state))
    loaded = model.state_dict()
    for key, tensor in state.items():
        if key.rpartition(".")[0] in layers:
            bias = model.precision.compute_dtype
            wanted = TARGETS[target][0].dtype if key.endswith(".weight") else bias
            assert loaded[key].dtype == wanted, key
        else:
            assert torch.equal(loaded[key], tensor), key
    scales = [key for key in loaded if key.endswith("weight_scale")]
    assert len(scales) == (len(layers) if TARGETS[target][0].dtype.itemsize == 1 else 0)


@pytest.mark.parametrize(
    ("source", "target", "asked", "computed"),
    [
        ("fp32", "fp8", None, BF16),
        ("fp32", "int8", torch.float32, torch.float32),
        ("fp16", "fp8", None, FP16),
        ("fp16", "int8", BF16, BF16),
        ("fp32", "fp16", None, FP16),
        ("fp16", "bf16", None, BF16),
        ("fp16", "bf16", BF16, BF16),
        ("fp8 scaled", "fp16", None, FP16),
        ("fp32", "as stored", None, torch.float32),
        ("fp32", "auto", None, torch.float32),
    ],
)
def test_what_the_blocks_compute_in(
    source: str,
    target: str,
    asked: torch.dtype | None,
    computed: torch.dtype,
    tmp_path: Path,
) -> None:
    file = save(tmp_path / "a.safetensors", SOURCES[source])
    assert load_dit(file, weights=target, dtype=asked).precision.compute_dtype == computed


def test_contradictions_and_unknown_names_are_refused(tmp_path: Path) -> None:
    file = save(tmp_path / "a.safetensors", dit_state())
    with pytest.raises(SettingsError, match=r"Got bf16 weights to compute in torch\.float16"):
        load_dit(file, weights="bf16", dtype=FP16)
    with pytest.raises(BackendError, match=r"no such weight format\. Got 'mxfp4'"):
        load_dit(file, weights="mxfp4")
    with pytest.raises(BackendError, match=r"fp8 is not available here.*needs an Nvidia GPU"):
        load_dit(file, weights="fp8", compute_device="meta")


def test_the_default_changes_nothing(tmp_path: Path) -> None:
    file = save(tmp_path / "a.safetensors", scaled(dit_state()))
    for weights in ("as stored", "auto"):
        model = load_dit(file, weights=weights)
        assert model.get_submodule(LAYER).matmul is DEQUANTIZED
        assert torch.equal(velocity(model), velocity(load_dit(file)))


CUDA = torch.device("cuda")
OLD = "torch._scaled_mm, scaled afterwards: needs compute capability 8.9, this GPU has 8.6"


@pytest.mark.parametrize(
    ("source", "capability", "kitchen", "kernels", "reason"),
    [
        ("fp8 scaled", (9, 0), False, [0], "the file holds fp8; this GPU (9.0) multiplies it"),
        ("fp8", (8, 9), False, [0], "the file holds fp8; this GPU (8.9) multiplies it"),
        ("fp8 scaled", (8, 6), True, [], f"the file holds fp8; {OLD}"),
        ("int8 scaled", (7, 5), True, [2], "the file holds int8; this GPU (7.5) multiplies it"),
        ("int8 scaled", (9, 0), False, [], "comfy-kitchen int8_linear: ModuleNotFoundError"),
        ("mixed", (9, 0), True, [0], "the file holds fp8; this GPU (9.0) multiplies it"),
        ("nvfp4", (12, 0), True, [4], "the file holds nvfp4; this GPU (12.0) multiplies it"),
        ("mxfp8", (10, 0), True, [5], "the file holds mxfp8; this GPU (10.0) multiplies it"),
        ("nvfp4 and fp8", (12, 0), True, [0, 4], "fp8 and nvfp4; this GPU (12.0) multiplies them"),
        ("nvfp4 and fp8", (9, 0), True, [0], "fp8 and nvfp4; this GPU (9.0) multiplies fp8; comfy"),
        ("nvfp4", (9, 0), True, [], "scaled_mm_nvfp4: needs compute capability 10.0, this"),
        ("mxfp8", (9, 0), True, [], "scaled_mm_mxfp8: needs compute capability 10.0, this"),
        ("fp8 e5m2", (9, 0), True, [], "the file holds fp8 e5m2"),
        ("bf16", (9, 0), True, [], "the file holds bf16"),
        ("fp32", (9, 0), True, [], "the file holds fp32"),
    ],
)
def test_auto_multiplies_small_weights_where_that_is_fast(
    source: str,
    capability: tuple[int, int],
    kitchen: bool,
    kernels: list[int],
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    missing = None if kitchen else "ModuleNotFoundError: No module named 'comfy_kitchen'"
    trial = {INT8_SCALED.name: missing}
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(MatmulKernel, "_failed_trial", lambda self, _: trial.get(self.format.name))
    info = detect(save(tmp_path / "a.safetensors", SOURCES[source]))
    policy = policy_for("auto", CUDA, info.formats)
    assert reason in policy.reason
    assert [KERNELS.index(kernel) for kernel in policy.kernels] == kernels


def test_a_policy_without_target_converts_nothing(tmp_path: Path) -> None:
    policy = QuantPolicy(device=torch.device("cpu"), kernels=KERNELS[:1])
    file = save(tmp_path / "a.safetensors", SOURCES["mixed"])
    stored, exact = load_dit(file), velocity(load_dit(file, dtype=torch.float32))
    model = load_dit(file, weights=policy)
    for layer, wanted in {LAYER: Fp8Matmul(), WIDE: DEQUANTIZED}.items():
        assert model.get_submodule(layer).matmul == wanted
        assert torch.equal(model.get_submodule(layer).weight, stored.get_submodule(layer).weight)
    error = (velocity(model) - exact).norm()
    assert (velocity(stored) - exact).norm() < error < 0.05 * exact.norm()


def bytes_of(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def is_kept(source: str, target: str) -> bool:
    """Whether the source's codes are the target's."""
    same = SOURCES[source][f"{LAYER}.weight"].dtype == TARGETS[target][0].dtype
    return same and source != "mxfp8"


class Comfy(Linear):
    """A layer class of a host program."""


def test_the_layer_class_is_kept(tmp_path: Path) -> None:
    file = save(tmp_path / "a.safetensors", dit_state())
    model = load_dit(file, weights="fp8", linear_class=Comfy)
    layer = model.get_submodule(LAYER)
    assert type(layer) is Comfy
    assert repr(layer) == "Comfy(256, 512, fp8 scaled (fp8))"
    assert not any(parameter.requires_grad for parameter in model.parameters())
