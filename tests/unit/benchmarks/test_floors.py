"""Operations that the floors are reckoned from are those that the real modules do."""

import weakref
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import ceilings
from benchmarks.floors import Work, forward_floor, forward_work, vae_operations
from wan_model.config import DiTConfig, Precision, VaeConfig
from wan_model.dit import WanDiT
from wan_model.vae import build_vae
from wan_model.vae.peak_memory import Operation

TOY = DiTConfig(
    dim=128, ffn_dim=192, num_heads=2, num_layers=3, in_channels=36, out_channels=16, text_dim=64
)
A14B = DiTConfig(
    dim=5120, ffn_dim=13824, num_heads=40, num_layers=40, in_channels=16, out_channels=16
)
VAE = VaeConfig(variant="wan2.1", encoder_dim=8, decoder_dim=8, z_dim=16)
RATES = {"bf16_tflops": 1.0, "fp8_tflops": 2.0, "attention_tflops": 0.5, "copy_gb_s": 100.0}


def counted(config: DiTConfig, frames: int, height: int, width: int) -> tuple[int, int]:
    """Returns the operations of a real forward pass on the meta device: matmuls, attention."""
    attention = 0

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        nonlocal attention
        attention += 2 * 2 * q.shape[1] * k.shape[1] * q.shape[2] * q.shape[3]
        return torch.empty(*q.shape[:3], v.shape[3], dtype=v.dtype, device=v.device)

    with torch.device("meta"):
        model = WanDiT(config, precision=Precision(), attention=attend)
        latent = torch.empty(1, config.out_channels, frames, height, width)
        cond = torch.empty(1, config.cond_channels, frames, height, width)
        text = torch.empty(1, 100, config.text_dim)
        with FlopCounterMode(display=False) as counter:
            model(latent, torch.empty(1), text, cond if config.cond_channels else None)
    return counter.get_total_flops(), attention


@pytest.mark.parametrize("config", [TOY, replace(TOY, in_channels=16, num_heads=4)])
def test_a_forward_pass_does_what_is_counted(config: DiTConfig):
    work = forward_work(config, 3 * 4 * 5, "bf16")

    assert (work.matmuls, work.attention) == counted(config, 3, 8, 10)


def test_a14b_at_480p81():
    work = forward_work(A14B, 32_760, "fp8")

    assert work.matmuls / work.attention == pytest.approx(0.88, abs=0.01)
    assert work.weight_bytes / 2**30 == pytest.approx(13.9, abs=0.2)


def test_floor_of_a_forward_pass():
    work = Work(matmuls=4 * 10**12, attention=10**12, weight_bytes=10**9)

    assert forward_floor(work, "bf16", RATES)["floor_seconds"] == 4 + 2
    assert forward_floor(work, "fp8 storage", RATES)["floor_seconds"] == 4 + 2
    assert forward_floor(work, "fp8", RATES) == {
        "floor_seconds": 2 + 2,
        "floor_attention_seconds": 2,
    }
    heavy = replace(work, weight_bytes=700 * 10**9)
    assert forward_floor(heavy, "bf16", RATES)["floor_seconds"] == 7
    assert forward_floor(work, "int8", RATES) == {}


@pytest.mark.parametrize("frames", [1, 9])
@pytest.mark.parametrize("operation", ["decode", "encode"])
def test_a_vae_does_what_is_counted(operation: Operation, frames: int):
    # In 16 bit and with plain attention: what a CPU has of its own goes past the counter.
    vae = build_vae(VAE).to(torch.bfloat16)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        if operation == "decode":
            vae.decode(torch.zeros(1, 16, (frames + 3) // 4, 2, 3))
        else:
            vae.encode(torch.zeros(1, 3, frames, 16, 24))

    assert counter.get_total_flops() == vae_operations(VAE, operation, (frames, 16, 24))


def test_convolutions_do_what_is_counted():
    for operations, call in ceilings.convolutions(8, (4, 10, 12), torch.bfloat16):
        with FlopCounterMode(display=False) as counter:
            call()
        assert counter.get_total_flops() == operations


def test_trials_keep_no_results():
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    most = 0

    def call() -> Tensor:
        nonlocal most
        most = max(most, len(alive))
        result = torch.zeros(2)
        alive.add(result)
        return result

    assert ceilings.seconds_per_call(call, torch.device("cpu")) > 0
    assert most <= 1


def test_a_ceiling_that_cannot_be_measured_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(ceilings, "TRIAL_SECONDS", 0.0)

    def attend(*_: Tensor) -> Tensor:
        raise RuntimeError("no kernel\nat all")

    rates = ceilings.forward_rates(TOY, 64, attend, torch.device("cpu"))

    assert {"bf16_tflops", "copy_gb_s"} <= set(rates)
    assert ceilings.ATTENTION not in rates
    assert "attention_tflops: RuntimeError: no kernel\n" in capsys.readouterr().err
    assert forward_floor(forward_work(TOY, 64, "bf16"), "bf16", rates) == {}
