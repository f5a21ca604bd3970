"""Number formats that a person can ask for, and how the blocks' weights get into one.

A name asked for means that format or an error. Within a format the first kernel that works on the
device is taken; a layer that it cannot take is widened before its product instead.
"""

from dataclasses import dataclass

import torch
from torch import nn

from ..errors import BackendError
from .kernels import FP8_KERNELS, INT8_KERNELS, MXFP8_KERNELS, NVFP4_KERNELS, Kernel
from .linear import Linear
from .storage import (
    BF16,
    FP8_ROWS,
    FP16,
    INT8_ROWS,
    MXFP8,
    NVFP4,
    Storage,
    StoredWeight,
    convert,
    widening_of,
)

AS_STORED = "as stored"
"""Weights stay as the file has them; quantised ones are widened before their product."""


@dataclass(frozen=True, kw_only=True)
class NumberFormat:
    """What weights are converted to, and the kernels that can multiply them as they are."""

    name: str
    label: str
    """What it is, for people."""
    storage: Storage
    kernels: tuple[Kernel, ...] = ()
    """In order of preference; none: weights are widened to the compute dtype before a product."""


NUMBER_FORMATS = (
    NumberFormat(name="bf16", label="16 bit, range of fp32", storage=BF16),
    NumberFormat(name="fp16", label="16 bit, finer, smaller range", storage=FP16),
    NumberFormat(
        name="fp8", label="8-bit float weights and products", storage=FP8_ROWS, kernels=FP8_KERNELS
    ),
    NumberFormat(
        name="fp8 storage", label="8-bit float weights, 16-bit products", storage=FP8_ROWS
    ),
    NumberFormat(
        name="int8",
        label="8-bit integer weights and products",
        storage=INT8_ROWS,
        kernels=INT8_KERNELS,
    ),
    NumberFormat(
        name="nvfp4",
        label="4-bit float weights and products",
        storage=NVFP4,
        kernels=NVFP4_KERNELS,
    ),
    NumberFormat(name="nvfp4 storage", label="4-bit float weights, 16-bit products", storage=NVFP4),
    NumberFormat(
        name="mxfp8",
        label="8-bit float weights and products, scaled per block",
        storage=MXFP8,
        kernels=MXFP8_KERNELS,
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
        return None if storage.is_scaled else storage.dtype

    def takes(self, stored: StoredWeight) -> bool:
        """Whether a weight that is stored like this is placed by this plan."""
        storage = self.number_format.storage
        return storage.holds(stored) or (self.converts and storage.fits(stored))

    def place(self, layer: Linear, stored: StoredWeight, device: torch.device) -> None:
        """Gives a layer its weight in this format.

        Args:
            layer: any of the blocks' linears.
            stored: its weight; not moved or copied if it needs no change.
            device: where the weight goes.
        """
        storage = self.number_format.storage
        placed = stored if storage.holds(stored) else stored.to(self.device)
        placed = convert(placed, storage).to(device)
        kernel = self.kernel
        put(placed, layer)
        if kernel is not None and kernel.misfit(placed) is None:
            layer.format = kernel.make()


def put(stored: StoredWeight, layer: Linear) -> None:
    """Gives a layer a weight, to be widened before products."""
    layer.weight = nn.Parameter(stored.weight, requires_grad=False)
    layer.weight_scale, layer.weight_scale_2 = stored.weight_scale, stored.weight_scale_2
    layer.format = widening_of(stored)


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
