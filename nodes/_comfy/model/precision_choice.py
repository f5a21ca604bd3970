"""Which formats a model's matmuls have on this machine."""

from collections.abc import Sequence

import torch

from ....wan_model.errors import BackendError
from ....wan_model.loading import CheckpointInfo
from ....wan_model.presets import AUTO, Tier
from ....wan_model.quant import AS_STORED, policy_for
from ..host import runtime

QUANTIZED = ("fp8", "int8", "nvfp4")
"""Of the choices of a precision widget, those that weights are converted to."""

NAMES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


def weights_of(precision: str) -> str:
    """Returns what `load_dit` is to make of the weights of a file."""
    return precision if precision in ("auto", *QUANTIZED) else AS_STORED


def precision_at(
    tier: Tier | None, precision: str, infos: Sequence[CheckpointInfo], device: torch.device
) -> str:
    """Returns the precision of a loader, with "auto" as a tier of speed has it.

    Weights of 16 bits stay so: converting them takes time and memory, which a person asks for by
    name.

    Args:
        tier: of the loader; None: none.
        precision: of its widget.
        infos: the files of its models.
        device: where they will run.
    """
    if tier is None or precision != AUTO:
        return precision
    if not tier.eight_bit:
        return NAMES[runtime.compute_dtype(precision)]
    names = {multiplied_as_stored(info, device) for info in infos}
    name = names.pop() if len(names) == 1 else None
    return name if name is not None and any(info.full_precision for info in infos) else precision


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
    dtype = NAMES[runtime.compute_dtype(precision)]
    if precision != "auto":
        return f"{dtype} matmuls"
    policy = policy_for("auto", device, info.formats, full_precision=info.full_precision)
    names = " and ".join(kernel.format.name.removesuffix(" scaled") for kernel in policy.multiplied)
    return f"{names or dtype} matmuls: {policy.reason}{_faster(info, device)}"


def _faster(info: CheckpointInfo, device: torch.device) -> str:
    """Returns what a file that asks for full precision could be multiplied with here."""
    named = multiplied_as_stored(info, device) if info.full_precision else None
    return f" ('{named}' is faster, and ten times coarser)" if named else ""


def multiplied_as_stored(info: CheckpointInfo, device: torch.device) -> str | None:
    """Returns the precision by whose name a file's weights are multiplied as they are.

    None if the device has no matmul for them, or a widget no name.
    """
    kernels = policy_for("auto", device, info.formats).kernels
    names = [kernel.format.name.removesuffix(" scaled") for kernel in kernels]
    return next((name for name in names if name in QUANTIZED), None)


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
