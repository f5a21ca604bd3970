"""Transformers as files for others, in every format, from every source."""

from collections.abc import Iterator
from pathlib import Path

import comfy_kitchen.tensor as kitchen
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.unit.loading.checkpoints import LAYER, block_layers, dense, dit_state, save
from tests.unit.loading.test_newest_files import in_tiles, quantized
from tests.unit.loading.test_weights import SOURCES
from wan_model import detect, load_dit
from wan_model.errors import SettingsError
from wan_model.loading import open_checkpoint
from wan_model.loading.source import Reader, ShapesOnly
from wan_model.quant.formats import PLAIN, StoredWeight
from wan_model.writing.export import EXPORTS, NamedWeight, export_checkpoint, find_export

TRIED = [
    *(("fp32", one.name) for one in EXPORTS if not one.is_gguf),
    *(("fp8 scaled per row", "fp8"), ("fp8", "fp8"), ("nvfp4", "bf16"), ("nvfp4", "int8")),
    *(("int8 scaled", "int8 convrot"), ("int8 in tiles", "int8"), ("int8 in tiles", "fp8")),
]
"""From 32 bit to every format, and from every kind of codes to what could be mistaken for them."""
IN_TILES = quantized(lambda w: in_tiles(w, 64, torch.int8, None))[0]
ERRORS = {"bf16": 0.003, "fp8": 0.04, "int8": 0.017, "int8 convrot": 0.01}


@pytest.mark.parametrize(
    ("name", "plain", "uneven"),
    [("bf16", 0.2, 0.2), ("fp8", 2.6, 2.6), ("int8", 0.9, 3.7), ("int8 convrot", 0.9, 0.9)],
)
def test_what_rounding_costs_is_what_docs_files_says(name: str, plain: float, uneven: float):
    """In percent, rms; uneven: one input in a hundred has eight times the weights of others."""
    weight = torch.randn(512, 5120, generator=torch.Generator().manual_seed(0))
    for factor, cost in ((1, plain), (8, uneven)):
        weight[:, ::100] *= factor
        stored = find_export(name).stored(StoredWeight(PLAIN[torch.float32], weight))
        error = stored.dequantize(torch.float32) - weight
        assert float(100 * error.norm() / weight.norm()) == pytest.approx(cost, abs=0.08)


def weights(file: Path, read: Reader) -> Iterator[NamedWeight]:
    for entry in open_checkpoint(file).entries.values():
        yield entry.name, entry.read(read)


def export(source: Path, target: Path, name: str) -> list[tuple[int, int]]:
    seen: list[tuple[int, int]] = []
    outline, values = weights(source, ShapesOnly()), weights(source, Reader())
    export_checkpoint(target, outline, values, find_export(name), lambda *at: seen.append(at))
    return seen


def by_core(state: dict[str, Tensor], name: str) -> Tensor:
    """A layer's weight as ComfyUI reads the file."""
    codes = state[f"{LAYER}.weight"]
    if name == "bf16":
        return codes.float()
    if name == "fp8":
        assert state["scaled_fp8"].dtype == codes.dtype == torch.float8_e4m3fn
        assert state["scaled_fp8"].numel() == 2
        return codes.float() * state[f"{LAYER}.scale_weight"]
    layout = kitchen.TensorWiseINT8Layout
    shape, rotated = tuple(codes.shape), name == "int8 convrot"
    scale = state[f"{LAYER}.weight_scale"]
    params = layout.Params(scale=scale, orig_dtype=torch.float32, orig_shape=shape, convrot=rotated)
    return layout.dequantize(codes, params)


@pytest.mark.parametrize(("source", "name"), TRIED)
def test_every_reader_finds_the_same_weights(source: str, name: str, tmp_path: Path) -> None:
    held = IN_TILES if source == "int8 in tiles" else SOURCES[source]
    file = save(tmp_path / "a.safetensors", held)
    seen = export(file, tmp_path / "b.safetensors", name)
    state, model = load_file(tmp_path / "b.safetensors"), load_dit(tmp_path / "b.safetensors")
    assert seen == [(number, len(state)) for number in range(len(state))]
    exact = dense(load_dit(file), LAYER)
    got = dense(model, LAYER)
    assert torch.allclose(by_core(state, name), got, atol=1e-6)
    assert (got - exact).norm() < ERRORS[name] * exact.norm()
    assert model.blocks[0].modulation.dtype == held["blocks.0.modulation"].dtype
    assert name.startswith(detect(tmp_path / "b.safetensors").format.removesuffix(" scaled"))
    assert not list(tmp_path.glob("*.partial"))


def test_codes_that_fit_are_kept(tmp_path: Path) -> None:
    for source, name in (("int8 scaled", "int8"), ("fp8 scaled", "fp8"), ("bf16", "bf16")):
        file = save(tmp_path / f"{name}.safetensors", SOURCES[source])
        export(file, tmp_path / f"{name} again.safetensors", name)
        state = load_file(tmp_path / f"{name} again.safetensors")
        for layer in block_layers(SOURCES[source]):
            assert torch.equal(state[f"{layer}.weight"], SOURCES[source][f"{layer}.weight"])


def test_what_is_outside_of_the_blocks_is_not_made_small(tmp_path: Path) -> None:
    everywhere = {k: t.to(torch.float8_e4m3fn) for k, t in dit_state().items()}
    file = save(tmp_path / "a.safetensors", everywhere)
    export(file, tmp_path / "b.safetensors", "int8")
    state = load_file(tmp_path / "b.safetensors")
    assert state["head.head.weight"].dtype == torch.bfloat16
    assert torch.equal(state["head.head.weight"].float(), everywhere["head.head.weight"].float())
    assert not load_dit(tmp_path / "b.safetensors").head.head.weight.is_meta


def test_nothing_is_written_over(tmp_path: Path) -> None:
    file = save(tmp_path / "a.safetensors", SOURCES["bf16"])
    with pytest.raises(OSError, match=r"a\.safetensors exists already"):
        export(file, file, "fp8")


def test_nothing_is_left_of_a_file_that_was_not_finished(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    file = save(tmp_path / "a.safetensors", SOURCES["bf16"])
    with pytest.raises(KeyboardInterrupt):
        export_checkpoint(
            tmp_path / "b.safetensors",
            weights(file, ShapesOnly()),
            weights(file, Reader()),
            find_export("int8"),
            stop,
        )
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_widths_and_names_that_cannot_be_had_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no such file format. Got 'int2', need one of bf16"):
        find_export("int2")
    narrow = [(f"{LAYER}.weight", PLAIN[torch.float32].quantize(torch.zeros(4, 40)))]
    with pytest.raises(
        SettingsError, match=r"cannot be stored as int8 convrot. .* multiple of 256"
    ):
        export_checkpoint(
            tmp_path / "a.safetensors", narrow, narrow, find_export("int8 convrot"), print
        )
