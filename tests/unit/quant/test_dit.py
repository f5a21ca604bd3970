"""A whole toy transformer in every weight format: what remains of the velocity."""

import pytest
import torch

from tests.unit.dit.toy import make_dit, make_inputs
from tests.unit.quant.kitchen import MXFP8_KERNEL, NVFP4_KERNEL
from tests.unit.quant.layers import plain, policy_of
from wan_model.config import Precision
from wan_model.dit import WanDiT
from wan_model.quant import Linear, QuantPolicy
from wan_model.quant.formats import FP8_SCALED, INT8_SCALED
from wan_model.quant.kernels import kernels_for

CPU = torch.device("cpu")
SIZES = {"dim": 256, "ffn_dim": 512, "num_layers": 3}

ROWWISE, UNIT_SCALE = kernels_for(FP8_SCALED)
POLICIES = {
    "bf16": (policy_of("bf16"), 5e-3),
    "fp8 storage": (policy_of("fp8 storage"), 3e-2),
    "fp8": (policy_of("fp8", ROWWISE), 4e-2),
    "fp8, scaled afterwards": (policy_of("fp8", UNIT_SCALE), 4e-2),
    "int8": (policy_of("int8", kernels_for(INT8_SCALED)[1]), 1.2e-2),
    "nvfp4 storage": (policy_of("nvfp4 storage"), 8e-2),
    "nvfp4": (policy_of("nvfp4", NVFP4_KERNEL), 1.2e-1),
    "mxfp8": (policy_of("mxfp8", MXFP8_KERNEL), 4e-2),
}
"""With bounds of the velocity's rms error against fp32. One fp8 code is off by 2.6e-2 whatever
its scale; weights and activations are, which makes 3.7e-2 of a matmul."""


def in_format(policy: QuantPolicy) -> WanDiT:
    model = make_dit("t2v", Precision(compute_dtype=torch.bfloat16), **SIZES)
    for name, layer in model.named_modules():
        if isinstance(layer, Linear) and name.startswith("blocks."):
            policy.place(layer, plain(layer.weight), CPU)
    return model


@pytest.mark.parametrize("name", POLICIES)
@torch.inference_mode()
def test_error_of_the_velocity(name: str) -> None:
    exact_model = make_dit("t2v", **SIZES)
    inputs = make_inputs(exact_model)
    exact = exact_model(*inputs)
    policy, limit = POLICIES[name]
    model = in_format(policy)
    error = (model(*inputs) - exact).norm() / exact.norm()
    assert 0 < error < limit
    layers = [layer for layer in model.blocks.modules() if isinstance(layer, Linear)]
    assert {layer.format for layer in layers} == {policy.target}
