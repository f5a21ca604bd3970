"""Number formats that a person can ask for, and how the blocks' weights get into one.

A name asked for means that format or an error. Within a format the first kernel that works on the
device is taken; a layer that it cannot take is widened before its product instead.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import BackendError
from .fp8 import FP8
from .kernels import FP8_KERNELS, INT8_KERNELS, Kernel
from .linear import Linear, PlainFormat, ScaledFormat, WeightFormat
from .rows import convert_weight

AS_STORED = "as stored"
"""Weights stay as the file has them; quantised ones are widened before their product."""


@dataclass(frozen=True, kw_only=True)
class NumberFormat:
    """What weights are converted to, and the kernels that can multiply them as they are."""

    name: str
    label: str
    """What it is, for people."""
    storage: torch.dtype
    kernels: tuple[Kernel, ...] = ()
    """In order of preference; none: weights are widened to the compute dtype before a product."""


NUMBER_FORMATS = (
    NumberFormat(name="bf16", label="16 bit, range of fp32", storage=torch.bfloat16),
    NumberFormat(name="fp16", label="16 bit, finer, smaller range", storage=torch.float16),
    NumberFormat(
        name="fp8", label="8-bit float weights and products", storage=FP8, kernels=FP8_KERNELS
    ),
    NumberFormat(name="fp8 storage", label="8-bit float weights, 16-bit products", storage=FP8),
    NumberFormat(
        name="int8",
        label="8-bit integer weights and products",
        storage=torch.int8,
        kernels=INT8_KERNELS,
    ),
)


@dataclass(frozen=True)
class WeightPlan:
    """A number format as it is done on one device."""

    number_format: NumberFormat
    device: torch.device
    """Where products are computed, and conversions too."""
    kernel: Kernel | None
    converts: bool = True
    """Whether weights of other formats become this one, or stay as they are."""

    @property
    def default_compute_dtype(self) -> torch.dtype | None:
        """What to compute in if nobody says: the weights' own 16 bits. None: that of the file."""
        storage = self.number_format.storage
        return storage if storage.itemsize == 2 else None

    def takes(self, stored: torch.dtype) -> bool:
        """Whether a weight that is stored as this dtype is placed by this plan."""
        return self.converts or stored == self.number_format.storage

    def place(
        self, layer: Linear, weight: Tensor, scale: Tensor | None, device: torch.device
    ) -> None:
        """Gives a layer its weight in this format.

        Args:
            layer: any of the blocks' linears.
            weight: (O, I) as stored; not moved or copied if it needs no change.
            scale: as `convert_weight` takes it.
            device: where the weight goes.
        """
        storage = self.number_format.storage
        if weight.dtype != storage:
            weight = weight.to(self.device)
        scale = None if scale is None else scale.to(weight.device)
        weight, scale = convert_weight(weight, scale, storage)
        layer.weight = nn.Parameter(weight.to(device), requires_grad=False)
        layer.weight_scale = None if scale is None else scale.to(device)
        layer.format = self.format_of(weight, scale)

    def format_of(self, weight: Tensor, scale: Tensor | None) -> WeightFormat:
        """Returns what multiplies with a converted weight."""
        if scale is None:
            return PlainFormat()
        if self.kernel is None or self.kernel.misfit(weight, scale):
            return ScaledFormat()
        return self.kernel.make()


def names() -> list[str]:
    """Returns the names that `load_dit` takes for its weights."""
    return [AS_STORED, "auto", *(number_format.name for number_format in NUMBER_FORMATS)]


def find(name: str) -> NumberFormat:
    """Returns a number format by name.

    Raises:
        BackendError: for an unknown name.
    """
    for number_format in NUMBER_FORMATS:
        if number_format.name == name:
            return number_format
    raise BackendError(
        f"There is no such number format. Got {name!r}, need one of {', '.join(names())}. "
        "Choose 'auto'."
    )


def resolve(name: str, device: torch.device) -> WeightPlan:
    """Returns how weights are kept and multiplied on a device.

    Raises:
        BackendError: for an unknown name, or if no kernel of the format works on the device; it
            lists every kernel with its reason.
    """
    number_format = find(name)
    if not number_format.kernels:
        return WeightPlan(number_format, device, None)
    reasons: list[str] = []
    for kernel in number_format.kernels:
        reason = kernel.unavailable_reason(device)
        if reason is None:
            return WeightPlan(number_format, device, kernel)
        reasons.append(f"{kernel.label}: {reason}")
    raise BackendError(
        f"The number format {name} is not available here. Got {'; '.join(reasons)}; need one that "
        f"runs on {device}. Choose 'auto'."
    )
