"""Kernels for products of small numbers: what each needs, and whether it works on a device."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from .block_formats import MxFp8Products, NvFp4Products
from .fp8 import Fp8Format, UnitScaleFp8Format
from .int8 import Int8Format, KitchenInt8Format
from .linear import Stored, WeightFormat
from .storage import FP8_ROWS, INT8_ROWS, MXFP8, NVFP4, Storage

TRIAL = 256
"""Side of the square weight that a kernel is tried with: several tiles of scales each way."""

FAILURES = (
    ImportError,
    AttributeError,
    TypeError,
    ValueError,
    AssertionError,
    RuntimeError,
)
"""What a kernel raises that is missing or does not run here."""


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """One way to multiply small numbers, with its constraints."""

    label: str
    """What it is, for people."""
    make: Callable[[], WeightFormat]
    """Returns the format that calls it; fails if a package or function is missing."""
    storage: Storage
    multiple: int
    """Both sides of a weight, as it is stored, must be multiples of this."""
    min_capability: tuple[int, int]
    """Of an Nvidia GPU, as (major, minor)."""
    on_cpu: bool
    """Whether it exists on the CPU, if only as a slow reference."""
    tolerance: float = 0.1
    """Most rms error of the trial. 8-bit activations cost 0.01 to 0.04, wrong numbers more than
    0.5."""

    def unavailable_reason(self, device: torch.device) -> str | None:
        """Returns why it cannot run on a device, or None if a trial gave right numbers there."""
        if device.type != "cuda":
            on_cpu = device.type == "cpu" and self.on_cpu
            return self._failed_trial(device) if on_cpu else "needs an Nvidia GPU"
        capability = torch.cuda.get_device_capability(device)
        if torch.version.hip is None and capability < self.min_capability:
            needed, found = (".".join(map(str, c)) for c in (self.min_capability, capability))
            return f"needs compute capability {needed}, this GPU has {found}"
        return self._failed_trial(device)

    def misfit(self, stored: Stored) -> str | None:
        """Returns why it cannot take a weight, or None if it can."""
        scale = stored.weight_scale
        if scale is None or not self.storage.holds(stored):
            return f"needs {self.storage.name} numbers with a scale"
        if scale.ndim == 3:
            return "needs one scale per tensor or row"
        if any(side % self.multiple for side in stored.weight.shape):
            return f"needs sides that are multiples of {self.multiple}"
        return None

    def _failed_trial(self, device: torch.device) -> str | None:
        """Returns what goes wrong in a small product, if anything."""
        try:
            operands = _Trial.make(device, self.storage)
            got = self.make().matmul(operands, operands.x)
        except FAILURES as error:
            return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        expected = self.storage.widening.matmul(operands, operands.x)
        error = (got - expected).norm() / expected.norm()
        return None if error < self.tolerance else f"gives wrong numbers here (error {error:.2g})"


@dataclass(frozen=True)
class _Trial:
    """A small layer and its input."""

    x: Tensor
    weight: Tensor
    weight_scale: Tensor | None
    weight_scale_2: Tensor | None
    bias: Tensor | None
    compute_dtype: torch.dtype = torch.bfloat16

    @classmethod
    def make(cls, device: torch.device, storage: Storage) -> "_Trial":
        """Draws numbers from sines: the same on every machine, and no two rows alike.

        Runs of 16 differ in size, so that a scale in a wrong place shows.
        """
        index = torch.arange(2 * TRIAL * TRIAL, device=device)
        sizes = torch.exp2(index // 16 * 5 % 7)
        values = index.mul(0.7).sin().mul(sizes).view(2, TRIAL, TRIAL)
        stored = storage.quantise(values[0])
        x = values[1].bfloat16()
        scales = stored.weight_scale, stored.weight_scale_2
        return cls(x, stored.weight, *scales, bias=x[0])


def _kitchen(compiled: str) -> Any:
    """Returns the module comfy_kitchen if it has a compiled function of this name here."""
    kitchen = import_module("comfy_kitchen")
    found = {
        capability
        for name, status in kitchen.list_backends().items()
        if name != "eager" and status["available"] and not status["disabled"]
        for capability in status["capabilities"]
    }
    if compiled not in found:
        raise ImportError(f"comfy-kitchen has no compiled {compiled} here")
    return kitchen


def _kitchen_products(
    products: type[NvFp4Products] | type[MxFp8Products], name: str
) -> WeightFormat:
    kitchen = _kitchen(f"quantize_{name}")
    return products(getattr(kitchen, f"quantize_{name}"), getattr(kitchen, f"scaled_mm_{name}"))


FP8_KERNELS = (
    Kernel(
        label="torch._scaled_mm with row-wise scales",
        make=Fp8Format,
        storage=FP8_ROWS,
        multiple=16,
        min_capability=(8, 9),
        on_cpu=True,
    ),
    Kernel(
        label="torch._scaled_mm, scaled afterwards",
        make=UnitScaleFp8Format,
        storage=FP8_ROWS,
        multiple=16,
        min_capability=(8, 9),
        on_cpu=True,
    ),
)
"""In order of preference."""

INT8_KERNELS = (
    Kernel(
        label="comfy-kitchen int8_linear",
        make=lambda: KitchenInt8Format(_kitchen("int8_linear").int8_linear),
        storage=INT8_ROWS,
        multiple=16,
        min_capability=(7, 5),
        on_cpu=False,
    ),
    Kernel(
        label="torch._int_mm",
        make=Int8Format,
        storage=INT8_ROWS,
        multiple=8,
        min_capability=(7, 5),
        on_cpu=True,
    ),
)
"""In order of preference."""

NVFP4_KERNELS = (
    Kernel(
        label="comfy-kitchen scaled_mm_nvfp4",
        make=partial(_kitchen_products, NvFp4Products, "nvfp4"),
        storage=NVFP4,
        multiple=16,
        min_capability=(10, 0),
        on_cpu=False,
        tolerance=0.2,  # 4-bit activations cost 0.1
    ),
)

MXFP8_KERNELS = (
    Kernel(
        label="comfy-kitchen scaled_mm_mxfp8",
        make=partial(_kitchen_products, MxFp8Products, "mxfp8"),
        storage=MXFP8,
        multiple=32,
        min_capability=(10, 0),
        on_cpu=False,
    ),
)
