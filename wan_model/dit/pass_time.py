"""How long a forward pass computes: its FLOPs at measured rates, and what its stages move."""

from dataclasses import dataclass

import torch
from torch import nn

from ..attention import Platform, name_of
from ..gpu_classes import TYPICAL, GpuClass, gpu_class
from ..offload import measure_matmul, measure_memory
from ..quant import DEQUANTIZED, Linear
from .activation_memory import StageKind
from .tokens import RUN_TOKENS
from .wan_dit import WanDiT

STAGE_BYTES: dict[StageKind, float] = {"own": 560, "fused": 100, "compiled": 130}
"""Per value of the hidden width and block, as if memory were moved at the rate of a copy.

Of an H200 (benchmarks/RESULTS.md): what is left of passes without their matmuls and attention."""

SCALING_BYTES: dict[StageKind, float] = {"own": 22, "fused": 5, "compiled": 5}
"""Per value of a result that gets its weight's scales after a matmul in 16 bit, in the same way."""

TEXT_LAYERS = ("cross_attn.k", "cross_attn.v")
"""Linears of the text's tokens, not of the video's."""


@dataclass(frozen=True, kw_only=True)
class DeviceRates:
    """What a device does per second, as measured there."""

    matmul_flops: float
    """In large matmuls of the compute dtype."""
    copied_bytes: float
    """Of its own memory, read and written."""
    gpu: GpuClass = TYPICAL
    """For what is not measured."""

    @classmethod
    def measured(cls, device: torch.device, dtype: torch.dtype) -> "DeviceRates":
        """Measures a device that computes in a dtype."""
        return cls(
            matmul_flops=measure_matmul(device, dtype),
            copied_bytes=measure_memory(device),
            gpu=gpu_class(Platform.current().capability),
        )


def _has_weights(block: nn.Module) -> bool:
    """Tells whether a block is here: some of them may be on other devices."""
    return any(True for _ in block.parameters())


def block_seconds(
    dit: WanDiT,
    batch: int,
    tokens: int,
    rates: DeviceRates,
    stages: StageKind = "own",
) -> float:
    """Estimates the computation of one block.

    Args:
        dit: with its weights' formats, matmuls and attention.
        batch: samples of the forward pass, each of which attends to its own tokens.
        tokens: of one sample.
        rates: of the device.
        stages: that blocks are run with.
    """
    config = dit.config
    linears = sum(
        _linear_seconds(
            layer, config.text_len if name in TEXT_LAYERS else tokens, batch, rates, stages
        )
        for name, layer in next(filter(_has_weights, dit.blocks)).named_modules()
        if isinstance(layer, Linear)
    )
    attention = 4 * tokens * (tokens + config.text_len) * config.dim
    gain = rates.gpu.attention_gain(name_of(dit.attend)) or rates.gpu.attention_gain("sdpa") or 1.0
    moved = tokens * config.dim * STAGE_BYTES[stages]
    per_sample = attention / (gain * rates.matmul_flops) + moved / rates.copied_bytes
    return linears + batch * per_sample


def _linear_seconds(
    layer: Linear, tokens: int, batch: int, rates: DeviceRates, stages: StageKind
) -> float:
    values = layer.in_features * layer.out_features
    flops = 2 * batch * tokens * values
    expansion = layer.expansion()
    matmul = layer.matmul if expansion is None else expansion.matmul
    weight_format = layer.format if expansion is None else expansion.format
    gain = None
    if matmul != DEQUANTIZED:
        gain = rates.gpu.codes_gain((weight_format.base or weight_format).name)
    seconds = flops / ((gain or 1.0) * rates.matmul_flops)
    if expansion is not None:
        # Codes are read, and what the matmul takes is written, once a block.
        moved = values * (layer.format.bits / 8 + expansion.format.dtype.itemsize)
        seconds += moved / rates.copied_bytes
    elif gain is None and layer.format.is_quantized:
        # For each run of tokens codes are read, 16-bit values written and read again.
        visits = -(-tokens // RUN_TOKENS)
        moved = values * (layer.format.bits / 8 + 2 * layer.compute_dtype.itemsize)
        seconds += visits * moved / rates.copied_bytes
        if (weight_format.base or weight_format).row_scales:
            scaled = batch * tokens * layer.out_features * SCALING_BYTES[stages]
            seconds += scaled / rates.copied_bytes
    return seconds
