"""Linear layers under ComfyUI: weights that it may stream, and LoRAs on weights of any format."""

from dataclasses import dataclass
from typing import Any

import comfy.float
import comfy.lora
import comfy.model_patcher
import comfy.ops
import torch
from torch import Tensor

from ....wan_model.errors import BackendError
from ....wan_model.quant import (
    DEQUANTIZED,
    PLAIN,
    StoredWeight,
    WeightFormat,
    add_low_rank,
)
from .arrival import string_to_seed
from .dense_patches import DensePatched


@dataclass
class _OnDevice:
    """Copies of a layer's tensors on the device that computes."""

    format: WeightFormat
    weight: Tensor
    bias: Tensor | None
    weight_scale: Tensor | None
    weight_scale_2: Tensor | None
    compute_dtype: torch.dtype


class ComfyLinear(DensePatched):
    """A linear layer whose weights ComfyUI may leave on the host and patch with LoRAs.

    The attribute and method names are those that ComfyUI's patcher looks for on a layer.
    """

    comfy_cast_weights = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.weight_function: list[Any] = []
        self.bias_function: list[Any] = []

    def forward(self, x: Tensor) -> Tensor:
        """Computes with the layer's own tensors, or with copies made for this call."""
        if not self.comfy_cast_weights:
            if self.dense_patches is None:
                return super().forward(x)
            return add_low_rank(self._multiplied(self.weight, self.bias, x), x, self.adapters)
        # ComfyUI adds LoRAs here to the weight as it is stored, some versions without scales.
        patches, self.weight_function = self.weight_function, []
        try:
            weight, bias, stream = comfy.ops.cast_bias_weight(
                self,
                dtype=self.weight.dtype,
                device=x.device,
                bias_dtype=None if self.bias is None else self.bias.dtype,
                offloadable=True,
            )
        finally:
            self.weight_function = patches
        out = self._multiplied(weight, bias, x)
        comfy.ops.uncast_bias_weight(self, weight, bias, stream)
        return add_low_rank(out, x, self.adapters)

    def _multiplied(self, weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
        """Returns the product with copies of the layer's tensors, patched."""
        dtype = self.compute_dtype
        if self.dense_patches is not None:
            dense = self.patched_dense(self._stored(weight).dequantize(torch.float32)).to(dtype)
            return DEQUANTIZED(_OnDevice(PLAIN[dtype], dense, bias, None, None, dtype), x)
        stored = self._stored(self._patched(weight))
        scales = stored.weight_scale, stored.weight_scale_2
        return self.matmul(_OnDevice(stored.format, stored.weight, bias, *scales, dtype), x)

    def _patched(self, weight: Tensor) -> Tensor:
        """Returns a stored weight with the LoRAs that ComfyUI has not merged, as it merges them."""
        if not self.weight_function:
            return weight
        dense, seed = self.convert_weight(weight.to(torch.float32, copy=True)), 0
        for function in self.weight_function:
            if isinstance(function, comfy.model_patcher.LowVramPatch):
                key, seed = function.key, string_to_seed(function.key)
                dense = comfy.lora.calculate_weight(function.patches[key], dense, key)
            else:
                dense = function(dense)
        return self._rounded(dense, seed)

    def convert_weight(self, weight: Tensor, **_: Any) -> Tensor:
        """Returns the dequantized weight, to be patched."""
        if self.format is PLAIN.get(self.weight.dtype):
            return weight
        return self._stored(weight.to(self.weight.dtype)).dequantize(torch.float32)

    def set_weight(
        self,
        weight: Tensor,
        inplace_update: bool = False,
        seed: int | None = None,
        return_weight: bool = False,
        **_: Any,
    ) -> Tensor | None:
        """Stores a patched weight (O, I) in the layer's format."""
        stored = self._rounded(weight, seed or 0)
        if return_weight:
            return stored
        if inplace_update:
            self.weight.data.copy_(stored)
        else:
            self.weight = torch.nn.Parameter(stored, requires_grad=False)
        return None

    def _rounded(self, weight: Tensor, seed: int) -> Tensor:
        """Returns a weight (O, I) in the layer's format; its scales stay as they are."""
        if not self.format.is_quantized and not self.format.row_scales:
            return comfy.float.stochastic_rounding(weight, self.weight.dtype, seed=seed)
        if self.format.requantize is None:
            raise BackendError(
                f"A weight cannot be patched in its place. Got one in {self.format.name}, need one "
                "that can be rounded to anew. Load a safetensors version of the model."
            )
        like_stored = torch.empty_like(self.weight, device=weight.device)
        generator = torch.Generator(weight.device).manual_seed(seed)
        return self.format.requantize(weight, self._stored(like_stored), generator)

    def _stored(self, weight: Tensor) -> StoredWeight:
        """Returns a weight in the layer's format with its scales, on the weight's device."""
        scales = (
            None if scale is None else scale.to(weight.device)
            for scale in (self.weight_scale, self.weight_scale_2)
        )
        return StoredWeight(self.format, weight, *scales)
