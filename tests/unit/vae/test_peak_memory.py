"""The memory estimate and the choice of tiles."""

import pytest
import torch
from torch import Tensor, nn

from tests.unit.dit.toy import MemoryRecorder
from wan_model.config import VaeConfig
from wan_model.vae import Tiling, build_vae, choose_tiling, estimate_peak_bytes
from wan_model.vae.peak_memory import WORKSPACE_BYTES, Operation
from wan_model.vae.pointwise import Past, PlainPointwise

WAN21 = VaeConfig(variant="wan2.1", encoder_dim=96, decoder_dim=96, z_dim=16)
WAN22 = VaeConfig(variant="wan2.2", encoder_dim=160, decoder_dim=256, z_dim=48)
MIB = 2**20


@pytest.fixture
def kernels_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has operations allocate what a GPU's kernels do: their result, with channels innermost."""

    def norm(x: Tensor, *_: object, **__: object) -> Tensor:
        return torch.empty_like(x)

    def conv2d(x: Tensor, weight: Tensor, _bias: None, stride: int, padding: int) -> Tensor:
        sides = [
            (side + 2 * padding - kernel) // stride + 1
            for side, kernel in zip(x.shape[2:], weight.shape[2:], strict=True)
        ]
        y = torch.empty(x.shape[0], *sides, weight.shape[0], dtype=x.dtype, device=x.device)
        return y.movedim(-1, 1)

    def attention(q: Tensor, _k: Tensor, _v: Tensor) -> Tensor:
        return torch.empty_like(q)

    monkeypatch.setattr("torch.nn.functional.rms_norm", norm)
    monkeypatch.setattr("torch.nn.functional.conv2d", conv2d)
    monkeypatch.setattr("torch.nn.functional.scaled_dot_product_attention", attention)
    monkeypatch.setattr("wan_model.vae.peak_memory.UNFUSED_NORM_WIDTHS", 0.0)


class OnePass(PlainPointwise):
    """Allocates what Triton's kernels do."""

    def norm_silu(
        self, x: Tensor, _bias: Tensor | None, _norm: nn.Module, past: Past
    ) -> tuple[Tensor, Tensor]:
        return x.new_empty(*x.shape[:-1], 3 * x.shape[-1]), past[0]

    def interleave(self, y: Tensor, _bias: Tensor, _x: Tensor | None) -> Tensor:
        batch, height, width, phases = y.shape
        return y.new_empty(batch, 2 * height - 2, 2 * width - 2, phases // 4)


def peak_bytes(
    config: VaeConfig, operation: Operation, height: int, width: int, dtype: torch.dtype
) -> int:
    """Returns the most that is alive in a pass over 9 frames beside weights, video and latent."""
    stride = config.spatial_stride
    with torch.device("meta"):
        vae = build_vae(config).to(dtype)
        latent = torch.empty(1, config.z_dim, 3, height // stride, width // stride)
        video = torch.empty(1, 3, 9, height, width)
    recorder = MemoryRecorder(device="meta")
    with recorder:
        vae.decode(latent, out=video) if operation == "decode" else vae.encode(video)
    return recorder.peak_bytes


LARGE, EXACT = (704, 1280, torch.bfloat16), (480, 832, torch.float32)
CONFIGS = pytest.mark.parametrize("config", [WAN21, WAN22], ids=lambda config: config.variant)
OPERATIONS = pytest.mark.parametrize("operation", ["encode", "decode"])


@pytest.mark.usefixtures("kernels_of_a_gpu")
@pytest.mark.parametrize(
    ("config", "operation", "size"),
    [
        (WAN21, "encode", EXACT),
        (WAN21, "decode", LARGE),
        (WAN22, "encode", LARGE),
        (WAN22, "decode", EXACT),
    ],
)
def test_the_estimate_is_what_is_alive(
    config: VaeConfig, operation: Operation, size: tuple[int, int, torch.dtype]
) -> None:
    peak = peak_bytes(config, operation, *size)
    estimate = estimate_peak_bytes(config, operation, *size) - WORKSPACE_BYTES
    assert peak <= estimate < 1.02 * peak


@pytest.mark.usefixtures("kernels_of_a_gpu")
@CONFIGS
@OPERATIONS
def test_kernels_of_one_pass_need_little_less(
    config: VaeConfig, operation: Operation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wan_model.vae.full.fastest_pointwise", lambda *_: OnePass())
    peak = peak_bytes(config, operation, 704, 1280, torch.bfloat16)
    estimate = estimate_peak_bytes(config, operation, 704, 1280, torch.bfloat16) - WORKSPACE_BYTES
    assert peak <= estimate < 1.06 * peak


@pytest.mark.usefixtures("kernels_of_a_gpu")
@CONFIGS
@OPERATIONS
def test_small_tiles_leave_room_for_rotated_weights(
    config: VaeConfig, operation: Operation
) -> None:
    peak = peak_bytes(config, operation, 256, 256, torch.bfloat16)
    estimate = estimate_peak_bytes(config, operation, 256, 256, torch.bfloat16)
    assert peak < estimate - 64 * MIB


@OPERATIONS
@CONFIGS
def test_tiles_are_the_largest_that_fit(config: VaeConfig, operation: Operation) -> None:
    def peak(height: int, width: int) -> int:
        return estimate_peak_bytes(config, operation, height, width, torch.bfloat16)

    def choose(free_bytes: int) -> Tiling | None:
        return choose_tiling(config, operation, 1280, 704, torch.bfloat16, free_bytes)

    assert choose(peak(704, 1280)) is None
    assert choose(peak(704, 1280) - 1) == Tiling(1216, 64)
    assert choose(peak(704, 768)) == Tiling(768, 64)
    assert choose(peak(512, 512)) == Tiling(512, 64)
    assert choose(peak(512, 512) - 1) == Tiling(448, 64)


def test_the_smallest_tiles_are_tried_when_nothing_fits() -> None:
    assert choose_tiling(WAN21, "decode", 832, 480, torch.bfloat16, 0) == Tiling(128, 64)
    assert choose_tiling(WAN21, "decode", 64, 64, torch.bfloat16, 0) == Tiling(128, 64)
