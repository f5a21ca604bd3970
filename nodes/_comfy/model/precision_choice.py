"""Which formats a model's matmuls have on this machine."""

import torch

from ....wan_model.errors import BackendError
from ....wan_model.loading import CheckpointInfo
from ....wan_model.presets import AUTO, Tier
from ....wan_model.quant import AS_STORED, AUTO_8_BIT, PLAIN, policy_for, short_name
from ..host import runtime

QUANTIZED = ("fp8", "int8", "nvfp4")
"""Of the choices of a precision widget, those that weights are converted to."""


def weights_of(precision: str) -> str:
    """Returns what `load_dit` is to make of the weights of a file."""
    return precision if precision in (AUTO, AUTO_8_BIT, *QUANTIZED) else AS_STORED


def precision_at(tier: Tier | None, precision: str, device: torch.device) -> str:
    """Returns the precision of a loader, with "auto" as a tier of speed has it.

    Nothing is converted: that takes time and memory, which a person asks for by name.

    Args:
        tier: of the loader; None: none.
        precision: of its widget.
        device: where the model will run.
    """
    if tier is None or precision != AUTO:
        return precision
    return AUTO_8_BIT if tier.eight_bit else _float(precision, device)


def _float(precision: str, device: torch.device) -> str:
    """Returns the name of what blocks compute in, beside 8-bit matmuls."""
    return PLAIN[runtime.compute_dtype(precision, device)].name


def explain(precision: str, info: CheckpointInfo, device: torch.device) -> str:
    """Returns what the user is told of a file's matmuls; nothing is loaded for it.

    Args:
        precision: of the widget.
        info: the file.
        device: where the model will run.

    Raises:
        BackendError: if it cannot be done here; it lists every kernel with its reason.
    """
    if precision in QUANTIZED:
        return f"{precision} matmuls: {_kernel(precision, device)}{_conversion(precision, info)}"
    dtype = _float(precision, device)
    if weights_of(precision) == AS_STORED:
        return f"{dtype} matmuls"
    policy = policy_for(precision, device, info.formats, full_precision=info.full_precision)
    names = [short_name(kernel.format) for kernel in policy.multiplied]
    if not names or any(not found.is_quantized for found in info.formats):
        names.append(dtype)
    faster = _faster(info, device) if precision == AUTO else ""
    return f"{' and '.join(names)} matmuls: {policy.reason}{faster}"


def _faster(info: CheckpointInfo, device: torch.device) -> str:
    """Returns what a file that asks for full precision could be multiplied with here."""
    kernels = policy_for(AUTO, device, info.formats).kernels if info.full_precision else ()
    names = [short_name(kernel.format) for kernel in kernels]
    named = next((name for name in names if name in QUANTIZED), None)
    return f" ('{named}' is faster, and ten times coarser)" if named else ""


def _kernel(precision: str, device: torch.device) -> str:
    if device.type == "cpu":
        raise BackendError(
            f"The precision {precision} is not available here. Got a CPU, which multiplies them "
            "slower than others; need an Nvidia GPU. Choose 'auto'."
        )
    (kernel,) = policy_for(precision, device).kernels
    return kernel.label


def _conversion(precision: str, info: CheckpointInfo) -> str:
    as_it_is = info.format.removesuffix(" scaled") == precision
    return "" if as_it_is else f"; weights converted from {info.format}"
