"""Kernels for products of 8-bit numbers: what each needs, and whether it works on a device."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

import torch
from torch import Tensor

from .fp8 import FP8, Fp8Format, UnitScaleFp8Format
from .int8 import Int8Format, KitchenInt8Format
from .linear import ScaledFormat, WeightFormat
from .rows import quantise_rows

TRIAL = 64
"""Side of the square weight that a kernel is tried with."""

TOLERANCE = 0.1
"""Most rms error of the trial: 8-bit activations cost 0.01 to 0.04, a wrong layout more than 1."""


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """One way to multiply 8-bit numbers, with its constraints."""

    label: str
    """What it is, for people."""
    make: Callable[[], WeightFormat]
    """Returns the format that calls it; fails if a package or function is missing."""
    storage: torch.dtype
    multiple: int
    """Both sides of a weight must be multiples of this."""
    min_capability: tuple[int, int]
    """Of an Nvidia GPU, as (major, minor)."""
    on_cpu: bool
    """Whether it exists on the CPU, if only as a slow reference."""

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

    def misfit(self, weight: Tensor, scale: Tensor | None) -> str | None:
        """Returns why it cannot take a weight (O, I) with this scale, or None if it can."""
        if weight.dtype != self.storage or scale is None:
            return f"needs {self.storage} numbers with a scale"
        if scale.ndim == 3:
            return "needs one scale per tensor or row"
        if any(side % self.multiple for side in weight.shape):
            return f"needs sides that are multiples of {self.multiple}"
        return None

    def _failed_trial(self, device: torch.device) -> str | None:
        """Returns what goes wrong in a small product, if anything."""
        try:
            operands = _Trial.make(device, self.storage)
            got = self.make().matmul(operands, operands.x)
        except (ImportError, AttributeError, TypeError, ValueError, RuntimeError) as error:
            return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        expected = ScaledFormat().matmul(operands, operands.x)
        error = (got - expected).norm() / expected.norm()
        return None if error < TOLERANCE else f"gives wrong numbers here (error {error:.2g})"


@dataclass
class _Trial:
    """A small layer and its input."""

    x: Tensor
    weight: Tensor
    weight_scale: Tensor | None
    bias: Tensor | None
    compute_dtype: torch.dtype = torch.bfloat16

    @classmethod
    def make(cls, device: torch.device, storage: torch.dtype) -> "_Trial":
        """Draws numbers from sines: the same on every machine, and no two rows alike."""
        values = torch.arange(2 * TRIAL * TRIAL, device=device).mul(0.7).sin().view(2, TRIAL, TRIAL)
        weight, scale = quantise_rows(values[0], storage)
        x = values[1].bfloat16()
        return cls(x, weight, scale, bias=x[0])


def _kitchen_int8() -> WeightFormat:
    kitchen = import_module("comfy_kitchen")
    fast = [
        name
        for name, status in kitchen.list_backends().items()
        if name != "eager" and status["available"] and not status["disabled"]
        if "int8_linear" in status["capabilities"]
    ]
    if not fast:
        raise ImportError("comfy-kitchen has no compiled int8_linear here")
    return KitchenInt8Format(kitchen.int8_linear)


FP8_KERNELS = (
    Kernel(
        label="torch._scaled_mm with row-wise scales",
        make=Fp8Format,
        storage=FP8,
        multiple=16,
        min_capability=(8, 9),
        on_cpu=True,
    ),
    Kernel(
        label="torch._scaled_mm, scaled afterwards",
        make=UnitScaleFp8Format,
        storage=FP8,
        multiple=16,
        min_capability=(8, 9),
        on_cpu=True,
    ),
)
"""In order of preference."""

INT8_KERNELS = (
    Kernel(
        label="comfy-kitchen int8_linear",
        make=_kitchen_int8,
        storage=torch.int8,
        multiple=16,
        min_capability=(7, 5),
        on_cpu=False,
    ),
    Kernel(
        label="torch._int_mm",
        make=Int8Format,
        storage=torch.int8,
        multiple=8,
        min_capability=(7, 5),
        on_cpu=True,
    ),
)
"""In order of preference."""
