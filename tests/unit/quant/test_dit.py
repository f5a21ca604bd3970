"""A whole toy transformer in every number format: what remains of the velocity."""

import pytest
import torch

from tests.unit.dit.toy import make_dit, make_inputs
from tests.unit.quant.kitchen import MXFP8_PRODUCTS, NVFP4_PRODUCTS
from wan_model.config import Precision
from wan_model.dit import WanDiT
from wan_model.quant import Linear, StoredWeight, WeightPlan, find, resolve
from wan_model.quant.kernels import FP8_KERNELS, INT8_KERNELS

CPU = torch.device("cpu")
SIZES = {"dim": 256, "ffn_dim": 512, "num_layers": 3}

PLANS = {
    "bf16": (resolve("bf16", CPU), 5e-3),
    "fp8 storage": (resolve("fp8 storage", CPU), 3e-2),
    "fp8": (WeightPlan(find("fp8"), CPU, FP8_KERNELS[0]), 4e-2),
    "fp8, scaled afterwards": (WeightPlan(find("fp8"), CPU, FP8_KERNELS[1]), 4e-2),
    "int8": (WeightPlan(find("int8"), CPU, INT8_KERNELS[1]), 1.2e-2),
    "nvfp4 storage": (resolve("nvfp4 storage", CPU), 8e-2),
    "nvfp4": (WeightPlan(find("nvfp4"), CPU, NVFP4_PRODUCTS), 1.2e-1),
    "mxfp8": (WeightPlan(find("mxfp8"), CPU, MXFP8_PRODUCTS), 4e-2),
}
"""With bounds of the velocity's rms error against fp32. One number in fp8 is off by 2.6e-2 whatever
its scale; weights and activations are, which makes 3.7e-2 of a product."""


def in_format(plan: WeightPlan) -> WanDiT:
    model = make_dit("t2v", Precision(compute_dtype=torch.bfloat16), **SIZES)
    for name, layer in model.named_modules():
        if isinstance(layer, Linear) and name.startswith("blocks."):
            plan.place(layer, StoredWeight(layer.weight), CPU)
    return model


@pytest.mark.parametrize("name", PLANS)
@torch.inference_mode()
def test_error_of_the_velocity(name: str) -> None:
    exact_model = make_dit("t2v", **SIZES)
    inputs = make_inputs(exact_model)
    exact = exact_model(*inputs)
    plan, limit = PLANS[name]
    model = in_format(plan)
    error = (model(*inputs) - exact).norm() / exact.norm()
    assert 0 < error < limit
    stored = {layer.weight.dtype for layer in model.blocks.modules() if isinstance(layer, Linear)}
    assert stored == {plan.number_format.storage.dtype}
