"""Which format the blocks' weights of a model get, and how they are multiplied.

A name asked for means that format or an error. Within a format the first kernel that works on the
device is taken; a weight that it cannot take is dequantized for each call instead.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

import torch

from ..errors import BackendError, SettingsError
from .formats import (
    BF16,
    FP8_SCALED,
    FP16,
    INT8_SCALED,
    MXFP8,
    NVFP4,
    PLAIN,
    StoredWeight,
    WeightFormat,
    convert,
    holds,
)
from .gguf_matmul import is_coarse
from .kernels import KERNELS, Int8Matmul, MatmulKernel, kernels_for
from .linear import Linear
from .rotated_formats import CONVROT_INT8, as_int8
from .rotation import ROTATIONS

AS_STORED = "as stored"
"""Weights stay as the file has them; quantized ones are dequantized before their matmul."""

AUTO = "auto"

AUTO_8_BIT = "auto, 8 bit"
"""As "auto", which also has weights of 8 bits multiplied as they are that their file wants to be
dequantized. Those of fewer bits are not, and 16-bit ones stay what they are."""

AUTO_KERNELS = tuple(kernel for kernel in KERNELS if kernel.make is not Int8Matmul)
"""With which `auto` multiplies quantized weights of a file. Where none of them runs it dequantizes
them for each call; an empty tuple makes that the rule. torch._int_mm is not among them: it writes
sums of 32 bits, and scales them afterwards."""


@dataclass(frozen=True)
class WeightChoice:
    """A format that a person can ask for by name."""

    name: str
    format: WeightFormat
    multiplied: bool = False
    """Whether the matmul takes codes, or 16-bit weights that are dequantized for it."""

    @property
    def kernels(self) -> tuple[MatmulKernel, ...]:
        """What can multiply it as it is, in order of preference."""
        return kernels_for(self.format) if self.multiplied else ()


CHOICES = (
    WeightChoice("bf16", BF16),
    WeightChoice("fp16", FP16),
    WeightChoice("fp8", FP8_SCALED, multiplied=True),
    WeightChoice("fp8 storage", FP8_SCALED),
    WeightChoice("int8", INT8_SCALED, multiplied=True),
    WeightChoice("int8 convrot", CONVROT_INT8[ROTATIONS[0]], multiplied=True),
    WeightChoice("nvfp4", NVFP4, multiplied=True),
    WeightChoice("nvfp4 storage", NVFP4),
    WeightChoice("mxfp8", MXFP8, multiplied=True),
)


@dataclass(frozen=True, kw_only=True)
class QuantPolicy:
    """What becomes of the blocks' weights of one model on one device."""

    device: torch.device
    """Where matmuls are computed, and conversions too."""
    target: WeightFormat | None = None
    """What weights are converted to; None: they stay as they are stored."""
    kernels: tuple[MatmulKernel, ...] = ()
    """At most one for each format; weights of others are dequantized for each call."""
    expanded: tuple[MatmulKernel, ...] = ()
    """Multiply what weights of few bits are expanded to: fp8 or int8 of GGUF's, int8 of rotated
    ones of 4 bits."""
    eight_bit: bool = False
    """Whether weights of 8 bits are multiplied as they are against their file's wish."""
    reason: str = ""
    """Of an automatic choice; for people, without a full stop."""

    @property
    def multiplied(self) -> tuple[MatmulKernel, ...]:
        """All kernels."""
        return (*self.kernels, *self.expanded)

    def overrules(self, stored: WeightFormat) -> bool:
        """Whether a weight in this format is not asked if it wants to be dequantized."""
        return self.target is not None or (self.eight_bit and _has_8_bits(stored))

    def takes(self, stored: StoredWeight) -> bool:
        """Whether a weight is placed by this, or else by whoever loads it, as it is stored."""
        if self.target is not None:
            return holds(stored.format, self.target) or self.target.fits(
                stored.format.shape(tuple(stored.weight.shape))
            )
        return any(holds(stored.format, kernel.format) for kernel in self.kernels)

    def place(self, layer: Linear, stored: StoredWeight, device: torch.device) -> None:
        """Gives a layer its weight, and the kernel that fits it.

        Args:
            layer: any of the blocks' linears.
            stored: its weight, which `takes` accepts; not copied if it needs no change.
            device: where the weight goes.
        """
        target = self.target or next(
            kernel.format for kernel in self.kernels if holds(stored.format, kernel.format)
        )
        if not holds(stored.format, target):
            stored = stored.to(self.device)
        placed = convert(stored, target).to(device)
        layer.put(placed)
        kernel = next((k for k in self.kernels if k.misfit(placed) is None), None)
        if kernel is not None:
            layer.matmul = kernel.make()

    def compute_dtype(self, asked: torch.dtype | None, stored: torch.dtype) -> torch.dtype:
        """Returns what the blocks compute in.

        Args:
            asked: by the caller, if at all.
            stored: what suits the file's own weights.

        Raises:
            SettingsError: if 16-bit weights are asked for to compute in another dtype.
        """
        if self.target is None and not self.kernels:
            return asked or stored
        own = None if self.target is None or self.target.is_quantized else self.target.dtype
        if own is not None and asked not in (None, own):
            raise SettingsError(
                f"Weights and precision contradict each other. Got {PLAIN[own].name} weights to "
                f"compute in {asked}, need the same for both. Leave one of them out."
            )
        # Quantized weights are far coarser than 16-bit arithmetic: fp32 would only cost time.
        return asked or own or (torch.bfloat16 if stored == torch.float32 else stored)


def names() -> list[str]:
    """Returns the names that `load_dit` takes for its weights."""
    return [AS_STORED, AUTO, AUTO_8_BIT, *(choice.name for choice in CHOICES)]


def find(name: str) -> WeightChoice:
    """Returns a choice by name.

    Raises:
        BackendError: for an unknown name.
    """
    for choice in CHOICES:
        if choice.name == name:
            return choice
    raise BackendError(
        f"There is no such weight format. Got {name!r}, need one of {', '.join(names())}. "
        "Choose 'auto'."
    )


def policy_for(
    name: str,
    device: torch.device,
    stored: Sequence[WeightFormat] = (),
    *,
    full_precision: bool = False,
) -> QuantPolicy:
    """Returns what becomes of weights on a device.

    Args:
        name: one of `names`.
        device: where the model will run.
        stored: formats of the blocks' weights in the file, that of most first, which "auto"
            looks at.
        full_precision: whether the file asks for dequantized matmuls, which "auto" honours, and
            "auto, 8 bit" for weights of fewer bits.

    Raises:
        BackendError: for an unknown name, or if no kernel of the format works on the device; it
            lists every kernel with its reason.
    """
    if name == AS_STORED:
        return QuantPolicy(device=device)
    if name in (AUTO, AUTO_8_BIT):
        policy = _automatic(device, stored, _spared(name, stored) if full_precision else ())
        return replace(policy, eight_bit=name == AUTO_8_BIT)
    choice = find(name)
    if not choice.kernels:
        return QuantPolicy(device=device, target=choice.format)
    kernel, reasons = _first_available(choice.kernels, device)
    if kernel is None:
        raise BackendError(
            f"The weight format {name} is not available here. Got {'; '.join(reasons)}; need one "
            f"that runs on {device}. Choose 'auto'."
        )
    return QuantPolicy(device=device, target=choice.format, kernels=(kernel,))


def _spared(name: str, stored: Sequence[WeightFormat]) -> list[WeightFormat]:
    """Returns the formats of a file that asks for full precision which get it."""
    return [found for found in stored if name == AUTO or not _has_8_bits(found)]


def _has_8_bits(found: WeightFormat) -> bool:
    """Whether it has codes of 8 bits; scales of blocks take a part of a bit more."""
    return found.is_quantized and found.bits >= 8


def _automatic(
    device: torch.device, stored: Sequence[WeightFormat], spared: Collection[WeightFormat]
) -> QuantPolicy:
    """Multiplies quantized weights as they are where that is fast and the file does not forbid it.

    It converts nothing.

    Args:
        device: where the model will run.
        stored: formats of its weights.
        spared: those of them that are dequantized, as the file asks.
    """
    if device.type == "cpu":
        return QuantPolicy(device=device, reason="this runs on the CPU")
    kinds = dict.fromkeys(kernel.format for kernel in AUTO_KERNELS)
    held = [kind for kind in kinds if any(holds(found, kind) for found in stored)]
    coarse = [kind.name for kind in stored if is_coarse(kind, stored)]
    if coarse and not held:
        return _expanding(device, coarse)
    wide = {found: kind for found in stored if (kind := as_int8(found)) is not None}
    if not held and not wide:
        found = " and ".join(weight_format.name for weight_format in stored)
        return QuantPolicy(device=device, reason=f"the file holds {found}")
    in_file = [*map(short_name, held), *(found.name for found in wide)]
    held = [kind for kind in held if not any(holds(found, kind) for found in spared)]
    wide = {found: kind for found, kind in wide.items() if found not in spared}
    left = [
        name for name in in_file if name not in [*map(short_name, held), *(f.name for f in wide)]
    ]
    holds_what = f"the file holds {' and '.join(in_file)}"
    if not held and not wide:
        reason = f"{holds_what} and asks for matmuls in full precision"
        return QuantPolicy(device=device, reason=reason)
    kernels, reasons = _multiplying(dict.fromkeys([*held, *wide.values()]), device)
    if kernels:
        which = " and ".join(short_name(kernel.format) for kernel in kernels)
        which = which if reasons or left else "them" if len(kernels) > 1 else "it"
        gpu = ".".join(map(str, torch.cuda.get_device_capability(device)))
        reasons = [f"this GPU ({gpu}) multiplies {which}", *reasons]
    if left:
        reasons.append(f"{' and '.join(left)} in full precision, as the file asks")
    return QuantPolicy(
        device=device,
        kernels=tuple(kernel for kernel in kernels if kernel.format in held),
        expanded=tuple(kernel for kernel in kernels if kernel.format in wide.values()),
        reason=f"{holds_what}; {'; '.join(reasons)}",
    )


def _multiplying(
    wanted: Iterable[WeightFormat], device: torch.device
) -> tuple[list[MatmulKernel], list[str]]:
    """Returns a kernel for each format that has one on a device, and why others have none."""
    kernels: list[MatmulKernel] = []
    reasons: list[str] = []
    for kind in wanted:
        usable = tuple(kernel for kernel in AUTO_KERNELS if kernel.format is kind)
        kernel, why_not = _first_available(usable, device)
        kernels += [] if kernel is None else [kernel]
        reasons += why_not[-1:] if kernel is None else []
    return kernels, reasons


def _expanding(device: torch.device, names: Collection[str]) -> QuantPolicy:
    """Multiplies weights of GGUF of few bits in 8, where the GPU does that fast."""
    in_file = " and ".join(names)
    reasons: list[str] = []
    for kind in (FP8_SCALED, INT8_SCALED):
        usable = tuple(kernel for kernel in AUTO_KERNELS if kernel.format is kind)
        kernel, why_not = _first_available(usable, device)
        reasons += why_not[-1:]
        if kernel is not None:
            gpu = ".".join(map(str, torch.cuda.get_device_capability(device)))
            reason = f"the file holds {in_file}, to be expanded; this GPU ({gpu}) multiplies it so"
            return QuantPolicy(device=device, expanded=(kernel,), reason=reason)
    reason = f"the file holds {in_file}; {'; '.join(reasons)}"
    return QuantPolicy(device=device, reason=reason)


def short_name(weight_format: WeightFormat) -> str:
    """Returns what a person calls a format, whose scales go without saying: "fp8"."""
    return weight_format.name.removesuffix(" scaled")


def _first_available(
    kernels: tuple[MatmulKernel, ...], device: torch.device
) -> tuple[MatmulKernel | None, list[str]]:
    """Returns the first kernel that works on a device, and why those before it do not."""
    reasons: list[str] = []
    for kernel in kernels:
        reason = kernel.unavailable_reason(device)
        if reason is None:
            return kernel, reasons
        reasons.append(f"{kernel.label}: {reason}")
    return None, reasons
