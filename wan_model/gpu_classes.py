"""How fast kinds of GPUs multiply and attend: what estimates and advice are made from.

All rates are TFLOP/s of dense work at a head width of 128. Only their ratios are used: cards of a
class differ in size, and what a machine reaches is measured there.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class GpuClass:
    """GPUs of one compute capability."""

    name: str
    capability: tuple[int, int]
    matmul: float
    """Of matmuls in bf16."""
    codes: Mapping[str, float]
    """Of matmuls of quantized tokens, by format of the weight."""
    attention: Mapping[str, float]
    """By backend."""
    source: str

    def attention_gain(self, backend: str) -> float | None:
        """Returns how many times as fast as bf16 matmuls a backend attends; None if unknown."""
        rate = self.attention.get(backend)
        return None if rate is None else rate / self.matmul

    def codes_gain(self, weight_format: str) -> float | None:
        """Returns how many times as fast as in bf16 quantized tokens are multiplied."""
        rate = self.codes.get(weight_format)
        return None if rate is None else rate / self.matmul


SAGE_README = "SageAttention's README, 32 thousand tokens"

GPU_CLASSES = (
    GpuClass(
        name="H100, H200",
        capability=(9, 0),
        matmul=727,
        codes={"fp8 scaled": 1348, "int8 scaled": 872},
        attention={
            "sdpa": 589,
            "sdpa_flash": 359,
            "sdpa_efficient": 180,
            "flash_attn_3": 663,
            "flash_attn_3_fp8": 853,
            "sage": 441,
            "kitchen_int8": 461,
        },
        source="an H200, benchmarks/RESULTS.md",
    ),
    GpuClass(
        name="RTX 30",
        capability=(8, 6),
        matmul=71,
        codes={"int8 scaled": 114},
        attention={"sdpa": 68, "sage": 134},
        source=f"an RTX 3090, {SAGE_README}",
    ),
    GpuClass(
        name="RTX 40",
        capability=(8, 9),
        matmul=165,
        codes={"fp8 scaled": 300, "int8 scaled": 480},
        attention={"sdpa": 164, "sage": 322, "sage_fp8_cuda": 431},
        source=f"an RTX 4090, {SAGE_README}",
    ),
    GpuClass(
        name="RTX 50",
        capability=(12, 0),
        matmul=209,
        codes={"fp8 scaled": 389, "mxfp8": 389},
        attention={"sdpa": 214, "sage": 479, "sage_fp8_cuda": 554},
        source=f"an RTX 5090, {SAGE_README}",
    ),
)

TYPICAL = GpuClass(
    name="other",
    capability=(0, 0),
    matmul=1.0,
    codes={"fp8 scaled": 1.8, "mxfp8": 1.8, "int8 scaled": 1.4, "nvfp4": 2.5},
    attention={"sdpa": 0.9},
    source="the others' mean, roughly",
)
"""Of a GPU that nobody has measured."""


def gpu_class(capability: tuple[int, int]) -> GpuClass:
    """Returns the class of a compute capability."""
    return next((c for c in GPU_CLASSES if c.capability == capability), TYPICAL)
