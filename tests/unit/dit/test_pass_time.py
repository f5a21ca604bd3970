"""The first estimate of a forward pass, beside what an H200 took (benchmarks/RESULTS.md)."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from wan_model.attention import guarded
from wan_model.attention.registry import BACKENDS, Selected
from wan_model.config import DiTConfig, Precision
from wan_model.dit import WanDiT
from wan_model.dit.pass_time import DeviceRates, block_seconds
from wan_model.gpu_classes import TYPICAL, gpu_class
from wan_model.quant import Linear, WeightFormat
from wan_model.quant.formats import BF16, FP8_SCALED

A14B = DiTConfig(
    dim=5120, ffn_dim=13824, num_heads=40, num_layers=1, in_channels=16, out_channels=16
)
TI2V_5B = DiTConfig(
    dim=3072, ffn_dim=14336, num_heads=24, num_layers=1, in_channels=48, out_channels=48
)
BLOCKS = {A14B: 40, TI2V_5B: 30}
H200 = DeviceRates(matmul_flops=727e12, copied_bytes=4.19e12, gpu=gpu_class((9, 0)))
TOKENS = {"480p81": 32_760, "720p81": 75_600, "480p17": 7_800, "704p121": 27_280}


@dataclass(frozen=True)
class Codes:
    """A matmul of quantized tokens."""

    name: str = "codes"

    def __call__(self, layer: Linear, x: Tensor) -> Tensor:
        raise NotImplementedError


def attention(name: str) -> Callable[..., Tensor]:
    [backend] = [backend for backend in BACKENDS if backend.name == name]
    return guarded(Selected(backend, lambda q, _k, _v: q, by_name=True))


def model(config: DiTConfig, stored: WeightFormat, matmul: str, attend: str) -> WanDiT:
    precision = Precision(compute_dtype=torch.bfloat16)
    with torch.device("meta"):
        dit = WanDiT(config, precision=precision, attention=attention(attend))
        for layer in dit.blocks.modules():
            if isinstance(layer, Linear):
                layer.put(stored.quantize(layer.weight))
                if matmul == "codes":
                    layer.matmul = Codes()
    return dit


MEASURED = [
    (A14B, "480p81", BF16, "16 bit", "sdpa", "own", 3.41),
    (A14B, "480p81", FP8_SCALED, "codes", "sdpa", "own", 3.10),
    (A14B, "720p81", FP8_SCALED, "codes", "sdpa", "own", 11.83),
    (A14B, "480p81", FP8_SCALED, "16 bit", "sdpa", "own", 3.75),
    (A14B, "480p17", FP8_SCALED, "16 bit", "sdpa", "own", 0.63),
    (A14B, "720p81", FP8_SCALED, "16 bit", "sdpa", "own", 13.51),
    (A14B, "480p81", FP8_SCALED, "codes", "sdpa", "fused", 2.25),
    (A14B, "720p81", FP8_SCALED, "codes", "sdpa", "fused", 9.85),
    (A14B, "480p81", BF16, "16 bit", "sdpa", "fused", 2.87),
    (TI2V_5B, "704p121", BF16, "16 bit", "sdpa", "fused", 0.89),
    (A14B, "480p81", FP8_SCALED, "codes", "sdpa", "compiled", 2.34),
    (A14B, "480p81", BF16, "16 bit", "flash_attn_3", "compiled", 2.64),
    (A14B, "720p81", BF16, "16 bit", "flash_attn_3", "compiled", 10.15),
    (A14B, "480p81", FP8_SCALED, "codes", "flash_attn_3", "compiled", 2.02),
    (A14B, "720p81", FP8_SCALED, "codes", "flash_attn_3", "compiled", 8.57),
    (A14B, "480p81", FP8_SCALED, "codes", "flash_attn_3_fp8", "compiled", 1.81),
    (A14B, "720p81", FP8_SCALED, "codes", "flash_attn_3_fp8", "compiled", 6.94),
    (TI2V_5B, "704p121", BF16, "16 bit", "flash_attn_3", "compiled", 0.81),
]


@pytest.mark.parametrize(
    ("config", "size", "stored", "matmul", "attend", "stages", "seconds"), MEASURED
)
def test_the_first_estimate_is_within_15_percent(
    config, size, stored, matmul, attend, stages, seconds
):
    dit = model(config, stored, matmul, attend)
    estimate = BLOCKS[config] * block_seconds(dit, 1, TOKENS[size], H200, stages)
    assert estimate == pytest.approx(seconds, rel=0.15)


def test_two_samples_take_twice_as_long_since_each_attends_to_its_own_tokens():
    dit = model(A14B, BF16, "16 bit", "sdpa")
    one, two = (block_seconds(dit, batch, 32_760, H200) for batch in (1, 2))
    assert two == pytest.approx(2 * one)


def test_a_gpu_that_nobody_measured_has_an_estimate_of_its_own_rates():
    dit = model(A14B, FP8_SCALED, "codes", "flash_attn_3_fp8")
    rates = DeviceRates(matmul_flops=100e12, copied_bytes=1e12)
    assert gpu_class((7, 5)) is rates.gpu is TYPICAL
    # 783 TFLOP in linears at 1.8 times the rate, 893 in attention at 0.9, 3.8 TB moved.
    assert 40 * block_seconds(dit, 1, 32_760, rates) == pytest.approx(4.35 + 9.93 + 3.76, rel=0.02)
