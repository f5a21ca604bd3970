"""What `auto` makes of a GPU: which number format the weights should have on it."""

from dataclasses import dataclass

from .plan import AS_STORED

HEADROOM_BYTES = 12 << 30
"""Kept free beside the weights for activations, kernels and the VAE. A forward pass at 720p81 takes
4.45 GiB (benchmarks/RESULTS.md); the rest is a guess."""

BF16_CAPABILITY = (8, 0)
FP8_CAPABILITY = (8, 9)
INT8_CAPABILITY = (7, 5)


@dataclass(frozen=True)
class PrecisionChoice:
    """A name for `load_dit`'s weights, and one sentence for people that says why."""

    weights: str
    reason: str


def choose_precision(
    capability: tuple[int, int] | None, free_bytes: int, model_bytes: int, stored: str = "bf16"
) -> PrecisionChoice:
    """Returns the number format that suits a GPU and a model.

    16-bit weights are kept 16 bits wide where they fit, since that is closest to the model; else
    the fastest 8-bit products that the GPU has are taken.

    Args:
        capability: compute capability of the Nvidia GPU, None without one.
        free_bytes: free GPU memory before the model is loaded.
        model_bytes: the transformer's weights in 16 bit; of one expert, as only one runs at a time.
        stored: number format in the file, as `CheckpointInfo.format` names it.
    """
    if capability is None:
        return PrecisionChoice(AS_STORED, "No Nvidia GPU: only those have 8-bit products.")
    gpu = ".".join(map(str, capability))
    wide = not stored.startswith(("fp8", "int8", "mixed"))
    room = f"{model_bytes / 2**30:.1f} of {free_bytes / 2**30:.1f} GiB"
    if wide and model_bytes + HEADROOM_BYTES <= free_bytes:
        name = stored if stored == "fp16" else "bf16"
        name = name if capability >= BF16_CAPABILITY else "fp16"
        return PrecisionChoice(name, f"16-bit weights fit ({room}) and are closest to the model.")
    why = f"16-bit weights leave too little room ({room})" if wide else f"The file holds {stored}"
    if stored.startswith("int8") and capability >= INT8_CAPABILITY:
        return PrecisionChoice("int8", f"{why}, which this GPU ({gpu}) multiplies as it is.")
    if capability >= FP8_CAPABILITY:
        return PrecisionChoice("fp8", f"{why}; this GPU ({gpu}) multiplies fp8.")
    if capability >= INT8_CAPABILITY:
        return PrecisionChoice("int8", f"{why}; this GPU ({gpu}) has int8 products but no fp8.")
    if wide:
        return PrecisionChoice("fp8 storage", f"{why}; this GPU ({gpu}) has no 8-bit products.")
    return PrecisionChoice(AS_STORED, f"{why}; this GPU ({gpu}) has no 8-bit products.")
