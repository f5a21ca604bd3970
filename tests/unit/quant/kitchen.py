"""comfy-kitchen as on a Blackwell GPU: its own quantizers, and matmuls of its own codes."""

from dataclasses import replace

import comfy_kitchen
import torch
import torch.nn.functional as F
from torch import Tensor

from wan_model.quant.formats import MXFP8, NVFP4
from wan_model.quant.kernels import MxFp8Matmul, NvFp4Matmul, kernels_for


def scaled_mm_nvfp4(
    a: Tensor,
    b: Tensor,
    *,
    tensor_scale_a: Tensor,
    tensor_scale_b: Tensor,
    block_scale_a: Tensor,
    block_scale_b: Tensor,
    bias: Tensor | None,
    out_dtype: torch.dtype,
) -> Tensor:
    dequantize = comfy_kitchen.dequantize_nvfp4
    x = dequantize(a, tensor_scale_a, block_scale_a, torch.float32)
    weight = dequantize(b, tensor_scale_b, block_scale_b, torch.float32)
    return F.linear(x, weight, None if bias is None else bias.float()).to(out_dtype)


def scaled_mm_mxfp8(
    a: Tensor,
    b: Tensor,
    *,
    block_scale_a: Tensor,
    block_scale_b: Tensor,
    bias: Tensor | None,
    out_dtype: torch.dtype,
) -> Tensor:
    assert block_scale_a.dtype == block_scale_b.dtype == torch.float8_e8m0fnu
    x = comfy_kitchen.dequantize_mxfp8(a, block_scale_a, torch.float32)
    weight = comfy_kitchen.dequantize_mxfp8(b, block_scale_b, torch.float32)
    return F.linear(x, weight, None if bias is None else bias.float()).to(out_dtype)


NVFP4_KERNEL = replace(
    kernels_for(NVFP4)[0], make=lambda: NvFp4Matmul(comfy_kitchen.quantize_nvfp4, scaled_mm_nvfp4)
)
MXFP8_KERNEL = replace(
    kernels_for(MXFP8)[0], make=lambda: MxFp8Matmul(comfy_kitchen.quantize_mxfp8, scaled_mm_mxfp8)
)
"""Replace kernels whose matmuls exist on Blackwell GPUs only."""
