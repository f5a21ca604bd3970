"""Activation memory, counted byte by byte; at the size of real videos on meta tensors."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.unit.dit.toy import BF16, FP32, MemoryRecorder, make_dit
from wan_model.attention import guarded
from wan_model.attention.registry import BACKENDS, Selected
from wan_model.config import DiTConfig, Precision
from wan_model.dit import BlockRunner, WanDiT, run_in_order
from wan_model.dit.activation_memory import WORKSPACE_BYTES, activation_bytes
from wan_model.dit.inputs import BlockInputs
from wan_model.quant import Linear, QuantizedRows, WeightFormat
from wan_model.quant.formats import BF16 as BF16_FORMAT
from wan_model.quant.formats import FP8_SCALED, INT8_SCALED, MXFP8, NVFP4

GIB, MIB = 2**30, 2**20
BF16_RESIDUAL = Precision(compute_dtype=torch.bfloat16, residual_dtype=torch.bfloat16)
T2V_A14B = DiTConfig(
    dim=5120, ffn_dim=13824, num_heads=40, num_layers=2, in_channels=16, out_channels=16
)
I2V_A14B = replace(T2V_A14B, in_channels=36)
TI2V_5B = DiTConfig(
    dim=3072, ffn_dim=14336, num_heads=24, num_layers=2, in_channels=48, out_channels=48
)
SIZE_720P81, SIZE_480P81, SIZE_480P17 = (21, 90, 160), (21, 60, 104), (5, 60, 104)
SIZE_704P121, SIZE_704P17, SIZE_704P1 = (31, 44, 80), (5, 44, 80), (1, 44, 80)

STORAGES = (BF16_FORMAT, FP8_SCALED, INT8_SCALED, MXFP8, NVFP4)

Size = tuple[int, int, int]


@pytest.fixture
def one_kernel_norm(monkeypatch) -> None:
    """Has the RMS norm allocate its result only: a kernel on GPUs, four operations elsewhere."""

    def rms_norm(x: Tensor, *_: object) -> Tensor:
        return torch.empty_like(x)

    monkeypatch.setattr("torch.nn.functional.rms_norm", rms_norm)


@pytest.fixture
def timestep_per_token(monkeypatch) -> None:
    """Has every token look up one of two timesteps, as with a first image."""

    def two_timesteps(timestep: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
        """Replaces the search for distinct values, which meta tensors do not have."""
        index = torch.empty(len(timestep), tokens, dtype=torch.int64, device="meta")
        return torch.empty(2, device="meta"), index

    monkeypatch.setattr("wan_model.dit.wan_dit.distinct_timesteps", two_timesteps)


def attend(q: Tensor, _k: Tensor, _v: Tensor) -> Tensor:
    """Allocates what attention kernels of 16 bit do: the result and the normalisation."""
    _normalisation = torch.empty(q.shape[:3], dtype=torch.float32, device=q.device)
    return torch.empty_like(q)


def peak_bytes(
    config: DiTConfig,
    precision: Precision,
    size: Size,
    batch: int = 1,
    stored: WeightFormat | None = None,
    runner: BlockRunner = run_in_order,
) -> int:
    """Returns the most that is alive in a forward pass beside weights and inputs.

    The blocks' weights are `stored` as given, by default in the dtype of the arithmetic.
    """
    with torch.device("meta"):
        model = WanDiT(config, precision=precision, attention=attend)
        model.to(torch.bfloat16)
        model.blocks.to(precision.compute_dtype)
        for layer in model.blocks.modules():
            if stored is not None and isinstance(layer, Linear):
                layer.put(stored.quantize(layer.weight))
        latent = torch.empty(batch, config.out_channels, *size)
        cond = torch.empty(batch, config.cond_channels, *size) if config.cond_channels else None
        timestep, text = torch.empty(batch), torch.empty(batch, 512, 4096)
    recorder = MemoryRecorder(device="meta")
    with torch.no_grad(), recorder:
        model.velocity(latent, timestep, text, cond, runner)
    return recorder.peak_bytes


@cache
def i2v_peak_bytes(precision: Precision, size: Size) -> int:
    """Returns `peak_bytes` of a block of I2V-A14B with the norm that it has on meta tensors."""
    return peak_bytes(replace(I2V_A14B, num_layers=1), precision, size)


@pytest.mark.usefixtures("one_kernel_norm")
@pytest.mark.parametrize(
    ("config", "size", "measured_gib"),
    [
        (T2V_A14B, SIZE_480P81, 2.29),
        (T2V_A14B, SIZE_720P81, 4.38),
        (T2V_A14B, SIZE_480P17, 1.05),
        (TI2V_5B, SIZE_704P121, 1.22),
    ],
    ids=["480p81", "720p81", "480p17", "5B 704p121"],
)
def test_counting_gives_what_was_measured_on_gpus(config, size, measured_gib):
    # An H200, FlashAttention-3, one timestep; 720p81 compiled, which does not matter for a peak in
    # attention; 480p17 an H100 and cuDNN. What changes the peak of a forward pass outdates these.
    assert peak_bytes(config, BF16, size) / GIB == pytest.approx(measured_gib, abs=0.01)


@pytest.mark.parametrize(("name", "measured_gib"), [("sage", 2.83), ("kitchen_int8", 2.37)])
def test_copies_of_8_bit_attention_are_counted(name, measured_gib):
    # An H200, compiled, where attention is the peak.
    [backend] = [backend for backend in BACKENDS if backend.name == name]
    attention = guarded(Selected(backend, attend, by_name=True))
    with torch.device("meta"):
        model = WanDiT(replace(T2V_A14B, num_layers=1), precision=BF16, attention=attention)
    estimate = model.activation_bytes(1, *SIZE_480P81) - WORKSPACE_BYTES
    assert estimate / GIB == pytest.approx(measured_gib, abs=0.01)


IMAGE = (1, 60, 104)
A14B_CASES = [
    *((BF16, I2V_A14B, size, 1) for size in (SIZE_720P81, SIZE_480P81, SIZE_480P17, IMAGE)),
    # Another precision, a second sample and fewer channels add up alike at any size.
    *((one, I2V_A14B, SIZE_720P81, 1) for one in (FP32, BF16_RESIDUAL)),
    *((one, I2V_A14B, IMAGE, 2) for one in (FP32, BF16, BF16_RESIDUAL)),
    *((one, T2V_A14B, SIZE_480P17, 1) for one in (FP32, BF16, BF16_RESIDUAL)),
]
TI2V_CASES = [
    *((BF16, size, batch) for size, batch in ((SIZE_704P121, 1), (SIZE_704P17, 2))),
    *((BF16, SIZE_704P1, batch) for batch in (1, 2)),
    *((one, SIZE_704P121, 1) for one in (FP32, BF16_RESIDUAL)),
    *((one, SIZE_704P1, 2) for one in (FP32, BF16_RESIDUAL)),
]


def check_estimate(
    config: DiTConfig, precision: Precision, size: Size, batch: int, blocks: int = 1
) -> None:
    peak = peak_bytes(replace(config, num_layers=blocks), precision, size, batch)
    estimate = activation_bytes(config, precision, batch, *size) - WORKSPACE_BYTES
    # Less than the smallest part of the sum at the size where it decides.
    assert estimate == pytest.approx(peak, abs=3 * MIB)


@pytest.mark.usefixtures("one_kernel_norm")
@pytest.mark.parametrize(("precision", "config", "size", "batch"), A14B_CASES)
def test_the_estimate_of_a14b_is_what_is_alive(precision, config, size, batch):
    check_estimate(config, precision, size, batch)


@pytest.mark.usefixtures("one_kernel_norm")
@pytest.mark.parametrize("precision", [FP32, BF16_RESIDUAL])  # as BF16 was measured, above
def test_a_block_leaves_nothing_behind(precision):
    check_estimate(T2V_A14B, precision, SIZE_480P17, 1, blocks=2)


@pytest.mark.usefixtures("one_kernel_norm", "timestep_per_token")
@pytest.mark.parametrize(("precision", "size", "batch"), TI2V_CASES)
def test_the_estimate_of_5b_with_an_image_is_what_is_alive(precision, size, batch):
    check_estimate(TI2V_5B, precision, size, batch)


@pytest.mark.usefixtures("one_kernel_norm")
def test_5b_without_an_image_is_not_estimated_too_low():
    over = activation_bytes(TI2V_5B, BF16, 1, *SIZE_704P121) - peak_bytes(
        TI2V_5B, BF16, SIZE_704P121
    )
    assert 0 < over < 200 * MIB + WORKSPACE_BYTES


@pytest.mark.parametrize("size", [SIZE_720P81, SIZE_480P81, SIZE_480P17])
def test_a_norm_of_four_operations_fits_in_the_estimate_and_200_mib(size):
    assert i2v_peak_bytes(BF16, size) < activation_bytes(I2V_A14B, BF16, 1, *size) + 200 * MIB


@pytest.mark.usefixtures("one_kernel_norm")
def test_a_dequantized_weight_is_gone_at_the_peak():
    """In a short video, where it would show; a longer one's peak is farther above it."""
    block = replace(I2V_A14B, num_layers=1)
    as_used, *others = (peak_bytes(block, BF16, SIZE_480P17, stored=s) for s in STORAGES)
    assert others == [as_used] * len(others)


class NoKernel:
    """Takes the place of a Triton kernel: what it reads and writes is allocated before."""

    def warmup(self, *_: object, **__: object) -> None:
        """Is called for meta tensors."""


class Codes:
    """A matmul of e4m3 tokens that allocates its result only."""

    name = "codes"
    codes_dtype = torch.float8_e4m3fn

    def __call__(self, layer: Linear, x: Tensor) -> Tensor:
        return torch.empty(*x.shape[:-1], layer.out_features, dtype=x.dtype, device=x.device)

    def of_rows(self, layer: Linear, rows: QuantizedRows) -> Tensor:
        shape = (*rows.codes.shape[:-1], layer.out_features)
        return torch.empty(shape, dtype=layer.compute_dtype, device=rows.codes.device)


@pytest.fixture
def fused(monkeypatch) -> Callable[..., BlockRunner]:
    """Returns a runner of fused stages on meta tensors; codes has all matmuls take e4m3."""
    kernels = pytest.importorskip("wan_model.dit.fused_kernels")
    for name in ("_add_and_norm", "_rms_norm", "_activate"):
        monkeypatch.setattr(kernels, name, NoKernel())
    from wan_model.dit.fused_stages import FusedStages

    def run(codes: bool, blocks: Iterable[Any], x: Tensor, inputs: BlockInputs) -> Tensor:
        for block in blocks:
            for layer in block.modules():
                if codes and isinstance(layer, Linear):
                    layer.matmul = Codes()
            x = block(x, inputs, FusedStages(block, with_codes=codes))
        return x

    return lambda codes: partial(run, codes)


@pytest.mark.usefixtures("one_kernel_norm")
@pytest.mark.parametrize("codes", [False, True], ids=["values", "codes"])
@pytest.mark.parametrize(
    ("config", "size", "batch", "over_mib"),
    [
        (T2V_A14B, SIZE_480P81, 1, 0),
        (T2V_A14B, SIZE_720P81, 1, 0),
        (T2V_A14B, SIZE_480P81, 2, 0),
        (TI2V_5B, SIZE_704P121, 1, 80),
        (T2V_A14B, SIZE_480P17, 1, 200),
    ],
    ids=["480p81", "720p81", "two samples", "5B 704p121", "480p17"],
)
def test_fused_stages_need_what_is_estimated_or_little_less(
    fused, codes, config, size, batch, over_mib
):
    peak = peak_bytes(config, BF16, size, batch, runner=fused(codes))
    estimate = activation_bytes(config, BF16, batch, *size, stages="fused") - WORKSPACE_BYTES
    assert -3 * MIB < estimate - peak < (over_mib + 3) * MIB


@pytest.mark.usefixtures("one_kernel_norm")
@pytest.mark.parametrize("stored", STORAGES, ids=lambda stored: stored.name)
def test_fused_stages_have_room_for_a_dequantized_weight(fused, stored):
    peak = peak_bytes(T2V_A14B, BF16, SIZE_480P17, stored=stored, runner=fused(codes=False))
    estimate = activation_bytes(T2V_A14B, BF16, 1, *SIZE_480P17, stages="fused")
    assert peak <= estimate


@pytest.mark.parametrize(
    ("config", "size", "measured_gib", "over"),
    [
        (T2V_A14B, SIZE_480P81, 1.90, 0.01),
        (T2V_A14B, SIZE_720P81, 4.38, 0.01),
        (TI2V_5B, SIZE_704P121, 0.98, 0.25),
    ],
    ids=["480p81", "720p81", "5B 704p121"],
)
def test_compiled_stages_need_what_was_measured_or_little_less(config, size, measured_gib, over):
    # benchmarks/RESULTS.md, an H200.
    estimate = activation_bytes(config, BF16, 1, *size, stages="compiled") - WORKSPACE_BYTES
    assert -0.01 < estimate / GIB - measured_gib < over


def test_720p81_needs_little_more_than_the_residual_and_q_k_v():
    # Residual 1.44 GiB in fp32, q, k and v 0.72 each in bf16: 3.6 GiB, the rest are short runs.
    assert 3.6 < i2v_peak_bytes(BF16, SIZE_720P81) / GIB < 4.9


def test_a_bf16_residual_saves_half_of_the_residual():
    full, half = (i2v_peak_bytes(p, SIZE_720P81) for p in (BF16, BF16_RESIDUAL))
    assert full - half > 0.7 * GIB


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
    peak = record(run, per_token, FP32, monkeypatch).peak_bytes
    hidden_state, of_a_run = TOKENS * DIM * 4, run * DIM * 4
    assert 5 * hidden_state < peak < 5.9 * hidden_state + 16 * of_a_run
