"""Linear layers under ComfyUI: weights that it may stream, and LoRAs on weights of any format."""

from dataclasses import dataclass, replace
from typing import Any

import comfy.float
import comfy.model_patcher
import comfy.ops
import torch
from torch import Tensor

from ....wan_model.errors import BackendError
from ....wan_model.quant import DEQUANTIZED, PLAIN, Expansion, StoredWeight, merged
from .arrival import string_to_seed
from .dense_patches import DensePatched, with_patches


@dataclass(frozen=True, kw_only=True)
class _OnDevice(StoredWeight):
    """Copies of a layer's tensors on the device that computes."""

    bias: Tensor | None
    compute_dtype: torch.dtype

    @classmethod
    def of(cls, stored: StoredWeight, bias: Tensor | None, dtype: torch.dtype) -> "_OnDevice":
        """Returns a weight as what a matmul takes."""
        parts = dict(stored.tensors())
        return cls(format=stored.format, **parts, bias=bias, compute_dtype=dtype)


class ComfyLinear(DensePatched):
    """A linear layer whose weights ComfyUI may leave on the host and patch with LoRAs.

    The attribute and method names are those that ComfyUI's patcher looks for on a layer.
    """

    comfy_cast_weights = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.weight_function: list[Any] = []
        self.bias_function: list[Any] = []

    @property
    def codes_dtype(self) -> torch.dtype | None:
        """None also where weights are brought for a call, or changed for it."""
        dense = self.comfy_cast_weights or self.dense_patches is not None
        return None if dense and self.expanded is None else super().codes_dtype

    def expansion(self) -> Expansion | None:
        """None also where weights are brought for a call; what is changed is in 16 bit."""
        if self.comfy_cast_weights:
            return None
        if self.dense_patches is None:
            return super().expansion()
        return Expansion(PLAIN[self.compute_dtype], DEQUANTIZED, self._write_patched)

    def _write_patched(self, target: Tensor, _: Tensor | None) -> None:
        target.copy_(self.patched_dense(self.stored().dequantize(torch.float32)))

    def multiply(self, x: Tensor) -> Tensor:
        """Computes with the layer's own tensors, or with copies made for this call."""
        if self.expanded is not None:
            return super().multiply(x)
        if not self.comfy_cast_weights:
            if self.dense_patches is None:
                return super().multiply(x)
            return self._multiplied(self.weight, self.bias, x)
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
        return out

    def _multiplied(self, weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
        """Returns the product with copies of the layer's tensors, patched."""
        dtype = self.compute_dtype
        if self.dense_patches is not None:
            dense = self.patched_dense(self._stored(weight).dequantize(torch.float32)).to(dtype)
            plain = StoredWeight(PLAIN[dtype], dense)
            return DEQUANTIZED(_OnDevice.of(plain, bias, dtype), x)
        return self.matmul(_OnDevice.of(self._patched(weight), bias, dtype), x)

    def _patched(self, weight: Tensor) -> StoredWeight:
        """Returns the weight with the LoRAs that ComfyUI has not merged, as it merges them."""
        if not self.weight_function:
            return self._stored(weight)
        dense, seed = self.convert_weight(weight.to(torch.float32, copy=True)), 0
        for function in self.weight_function:
            if isinstance(function, comfy.model_patcher.LowVramPatch):
                key, seed = function.key, string_to_seed(function.key)
                dense = with_patches(dense, key, function.patches[key])
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
        own_scales: bool = False,
        **_: Any,
    ) -> Tensor | None:
        """Stores a patched weight (O, I) in the layer's format; scales grow with its values.

        Args:
            weight: fp32.
            inplace_update: whether to write into the tensor of the weight that there is.
            seed: of random rounding.
            return_weight: whether to return the codes instead; the layer stays as it is.
            own_scales: whether the layer's scales are its own, to be written into; if not, others
                take their place.
        """
        if return_weight:
            return self._rounded(weight, seed or 0).weight
        stored = self._rounded(weight, seed or 0)
        if inplace_update:
            self.weight.data.copy_(stored.weight)
        else:
            self.weight = torch.nn.Parameter(stored.weight, requires_grad=False)
        for name, tensor in stored.tensors():
            if name != "weight" and own_scales:
                getattr(self, name).copy_(tensor)
            elif name != "weight":
                setattr(self, name, tensor)
        return None

    def _rounded(self, weight: Tensor, seed: int) -> StoredWeight:
        """Returns a weight (O, I) in the layer's format."""
        if not self.format.is_quantized and not self.format.row_scales:
            dtype = self.weight.dtype
            return self._stored(comfy.float.stochastic_rounding(weight, dtype, seed=seed))
        if self.format.requantize is None:
            raise BackendError(
                f"A weight cannot be patched in its place. Got one in {self.format.name}, need one "
                "that can be rounded to anew. Load a safetensors version of the model."
            )
        like_stored = self._stored(torch.empty_like(self.weight, device=weight.device))
        return merged(weight, like_stored, torch.Generator(weight.device).manual_seed(seed))

    def _stored(self, weight: Tensor) -> StoredWeight:
        """Returns a weight in the layer's format with its scales, on the weight's device."""
        return replace(self.stored(), weight=weight).to(weight.device)
