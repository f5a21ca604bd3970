"""comfy-kitchen as on a Blackwell GPU: its own quantisers, and products from its own numbers."""

import comfy_kitchen
import torch
import torch.nn.functional as F
from torch import Tensor


class Kitchen:
    """Stands in for the module. Products of such numbers exist on Blackwell GPUs only."""

    quantize_nvfp4 = staticmethod(comfy_kitchen.quantize_nvfp4)
    quantize_mxfp8 = staticmethod(comfy_kitchen.quantize_mxfp8)

    def scaled_mm_nvfp4(
        self,
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
        widen = comfy_kitchen.dequantize_nvfp4
        x = widen(a, tensor_scale_a, block_scale_a, torch.float32)
        weight = widen(b, tensor_scale_b, block_scale_b, torch.float32)
        return F.linear(x, weight, None if bias is None else bias.float()).to(out_dtype)

    def scaled_mm_mxfp8(
        self,
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
