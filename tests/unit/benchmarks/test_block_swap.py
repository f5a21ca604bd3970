from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from benchmarks.loras import extras, give
from tests.unit.dit.toy import make_dit, make_inputs
from tests.unit.offload.fakes import plan_for
from wan_model.config import DiTConfig
from wan_model.loading import load_dit
from wan_model.offload import HostModel, OffloadEngine, PlainDevice
from wan_model.quant import SCALED, Linear, convert

from .conftest import import_script

SMALL = DiTConfig(
    dim=128,
    ffn_dim=256,
    num_heads=1,
    num_layers=2,
    text_dim=64,
    in_channels=16,
    out_channels=16,
)


def test_the_random_expert_is_what_people_download(tmp_path: Path):
    """Ours and ComfyUI's loaders know its scales, so that both compute the same."""
    path = tmp_path / "high_noise_14B_random.safetensors"
    save_file(import_script("block_swap").random_state(SMALL, "cpu"), path)

    with safe_open(path, "pt") as file:
        weights = [k for k in file.keys() if file.get_tensor(k).dtype == torch.float8_e4m3fn]  # noqa: SIM118
        scales = {k.removesuffix("scale_weight") for k in file.keys() if "scale_weight" in k}  # noqa: SIM118
        assert file.get_tensor("scaled_fp8").shape == (2,)
    layer = load_dit(path).get_submodule("blocks.1.ffn.0")

    assert {k.removesuffix("weight") for k in weights if k != "scaled_fp8"} == scales
    assert layer.weight.dtype == torch.float8_e4m3fn
    spread = layer.stored().dequantize(torch.float32).std().item()
    assert spread == pytest.approx(128**-0.5, rel=0.1)


@torch.inference_mode()
def test_loras_that_travel_are_those_in_place():
    model = make_dit()
    for layer in model.blocks.modules():
        if isinstance(layer, Linear):
            layer.put(convert(layer.stored(), SCALED[torch.float8_e4m3fn]))
    inputs, cpu = make_inputs(model), torch.device("cpu")
    bare = model(*inputs)
    host = HostModel(model, model.blocks)
    alone = host.slab_bytes
    host.carry(extras(model))
    assert host.slab_bytes > alone
    engine = OffloadEngine([host], plan_for(host, blocks_to_swap=1), PlainDevice("cpu"))
    streamed = engine.run(0, partial(model.velocity, *inputs))
    assert give(model, cpu)
    assert torch.equal(streamed, model(*inputs))
    assert not torch.allclose(streamed, bare, atol=1e-3)
