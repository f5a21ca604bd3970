"""The memory estimate and the choice of tiles."""

import pytest
import torch

from wan_model.config import VaeConfig
from wan_model.vae import Tiling, choose_tiling, estimate_peak_bytes
from wan_model.vae.memory import Operation

WAN21 = VaeConfig(variant="wan2.1", encoder_dim=96, decoder_dim=96, z_dim=16)
WAN22 = VaeConfig(variant="wan2.2", encoder_dim=160, decoder_dim=256, z_dim=48)
GIB = 2**30


@pytest.mark.parametrize(
    ("config", "operation", "measured_gib"),
    [
        (WAN21, "decode", 6.25),
        (WAN21, "encode", 4.62),
        (WAN22, "decode", 6.04),
        (WAN22, "encode", 2.30),
    ],
)
def test_estimate_covers_what_was_measured(
    config: VaeConfig, operation: Operation, measured_gib: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wan_model.vae.memory.UNFUSED_NORM", 1.0)
    estimate = estimate_peak_bytes(config, operation, 704, 1280, torch.bfloat16) / GIB
    assert measured_gib < estimate < 1.2 * measured_gib


def test_estimate_grows_with_width_size_and_dtype() -> None:
    base = estimate_peak_bytes(WAN21, "decode", 480, 832, torch.bfloat16)
    assert estimate_peak_bytes(WAN21, "decode", 480, 832, torch.float32) == 2 * base
    assert estimate_peak_bytes(WAN21, "decode", 960, 832, torch.bfloat16) == 2 * base
    narrow = VaeConfig(variant="wan2.1", encoder_dim=48, decoder_dim=48, z_dim=16)
    assert estimate_peak_bytes(narrow, "decode", 960, 832, torch.bfloat16) == base


@pytest.mark.parametrize("operation", ["encode", "decode"])
@pytest.mark.parametrize("config", [WAN21, WAN22])
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
