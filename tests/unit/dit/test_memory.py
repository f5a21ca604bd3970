"""Activation memory, counted byte by byte; at the size of real videos on meta tensors."""

from collections import Counter

import pytest
import torch
from torch import Tensor

from tests.unit.dit.toy import BF16, FP32, MemoryRecorder, make_dit
from wan_model.config import DiTConfig, Precision
from wan_model.dit import WanDiT
from wan_model.dit.memory import activation_bytes

GIB = 2**30
BF16_RESIDUAL = Precision(compute_dtype=torch.bfloat16, residual_dtype=torch.bfloat16)
I2V_A14B = DiTConfig(
    dim=5120, ffn_dim=13824, num_heads=40, num_layers=2, in_channels=36, out_channels=16
)
TI2V_5B = DiTConfig(
    dim=3072, ffn_dim=14336, num_heads=24, num_layers=2, in_channels=48, out_channels=48
)
SIZE_720P81, SIZE_480P81, SIZE_704P121 = (21, 90, 160), (21, 60, 104), (31, 44, 80)


def peak_gib(config: DiTConfig, precision: Precision, size: tuple[int, int, int]) -> float:
    """Returns the activations of a forward pass in GiB, without attention's own workspace."""
    with torch.device("meta"):
        model = WanDiT(config, precision=precision, attention=lambda q, _k, _v: torch.empty_like(q))
        model.to(torch.bfloat16)
        latent = torch.empty(1, config.out_channels, *size)
        cond = torch.empty(1, config.cond_channels, *size) if config.cond_channels else None
        timestep, text = torch.empty(1), torch.empty(1, 512, 4096)
    recorder = MemoryRecorder(device="meta")
    with torch.no_grad(), recorder:
        model(latent, timestep, text, cond)
    return recorder.peak_bytes / GIB


def test_720p81_needs_little_more_than_the_residual_and_q_k_v():
    # Residual 1.44 GiB in fp32, q, k and v 0.72 each in bf16: 3.6 GiB, the rest are short runs.
    assert 3.6 < peak_gib(I2V_A14B, BF16, SIZE_720P81) < 4.9


def test_a_bf16_residual_saves_half_of_the_residual():
    full, half = (peak_gib(I2V_A14B, p, SIZE_720P81) for p in (BF16, BF16_RESIDUAL))
    assert full - half > 0.7


@pytest.mark.parametrize("precision", [FP32, BF16, BF16_RESIDUAL], ids=["fp32", "bf16", "small"])
@pytest.mark.parametrize("config", [I2V_A14B, TI2V_5B], ids=["A14B", "5B"])
@pytest.mark.parametrize("size", [SIZE_720P81, SIZE_480P81, SIZE_704P121])
def test_the_estimate_is_near_what_is_used(config, precision, size):
    estimate = activation_bytes(config, precision, 1, *size) / GIB
    # Beside the activations it counts a margin, and half a GiB for what kernels need.
    peak = peak_gib(config, precision, size)
    assert peak < estimate < 1.1 * peak + 0.6


def test_a_timestep_per_token_costs_little(monkeypatch):
    def two_timesteps(_timestep: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
        """Stands in for the search for distinct values, which meta tensors do not have."""
        return torch.empty(2, device="meta"), torch.empty(
            1, tokens, dtype=torch.int64, device="meta"
        )

    shared = peak_gib(TI2V_5B, BF16, SIZE_704P121)
    monkeypatch.setattr("wan_model.dit.model.distinct_timesteps", two_timesteps)
    assert peak_gib(TI2V_5B, BF16, SIZE_704P121) - shared < 0.3


DIM, LAYERS, TOKENS, FFN = 192, 2, 512, 96


def record(run: int, per_token: bool, precision: Precision, monkeypatch) -> MemoryRecorder:
    """Runs a narrow model over many tokens, `run` at a time.

    The sizes are such that a hidden state is larger than any weight and than the patches.
    """
    monkeypatch.setattr("wan_model.dit.tokens.RUN_TOKENS", run)
    model = make_dit(dim=DIM, ffn_dim=FFN, num_layers=LAYERS, text_len=8, precision=precision)
    generator = torch.Generator().manual_seed(0)
    latent = torch.randn(1, 16, 4, 32, 16, generator=generator)
    text = torch.randn(1, 8, 20, generator=generator)
    timestep = torch.full((1, TOKENS) if per_token else (1,), 700.0)
    if per_token:
        timestep[:, : TOKENS // 4] = 0
    recorder = MemoryRecorder()
    with torch.no_grad(), recorder:
        model(latent, timestep, text)
    return recorder


@pytest.mark.parametrize("per_token", [False, True], ids=["per sample", "per token"])
@pytest.mark.parametrize("precision", [FP32, BF16], ids=["fp32", "bf16"])
def test_only_residual_q_k_v_and_attention_span_all_tokens(per_token, precision, monkeypatch):
    recorder = record(32, per_token, precision, monkeypatch)
    spanning = [made for made in recorder.allocations if made.numel > TOKENS * DIM // 2]
    # Nothing is wider than the hidden width, above all no (tokens, 6, dim) modulation.
    assert {made.numel for made in spanning} == {TOKENS * DIM}
    # The residual once; q, k, v and their attention per block.
    assert len(spanning) == 1 + 4 * LAYERS, Counter(made.operation for made in spanning)


@pytest.mark.parametrize("run", [16, 256])
@pytest.mark.parametrize("per_token", [False, True], ids=["per sample", "per token"])
def test_peak_is_five_hidden_states_and_a_run(per_token, run, monkeypatch):
    # Residual, q, k, v and their attention; patches and angles take less than one more.
    peak_bytes = record(run, per_token, FP32, monkeypatch).peak_bytes
    hidden_state, of_a_run = TOKENS * DIM * 4, run * DIM * 4
    assert 5 * hidden_state < peak_bytes < 5.9 * hidden_state + 16 * of_a_run
