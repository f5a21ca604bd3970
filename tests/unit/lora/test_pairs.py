"""Which expert a file is for, and its partner."""

from pathlib import Path

import pytest

from wan_model.lora import experts_of, partner

NAMES = (
    "lightning/high_noise_model.safetensors",
    "lightning/low_noise_model.safetensors",
    "Wan2.2_HIGH_rain_e20.safetensors",
    "Wan2.2_LOW_rain_e35.safetensors",
    "smokeHighNoise.safetensors",
    "smokeLowNoise.safetensors",
    "a-High-v1.safetensors",
    "a-High-v2.safetensors",
    "a-Low-v3.safetensors",
    "a-Low-v4.safetensors",
    "highlands.safetensors",
)


@pytest.mark.parametrize(
    ("name", "other"),
    [
        (NAMES[0], NAMES[1]),
        (NAMES[1], NAMES[0]),
        (NAMES[2], NAMES[3]),
        (NAMES[4], NAMES[5]),
        (NAMES[6], None),
        (NAMES[10], None),
    ],
)
def test_partner(name: str, other: str | None):
    assert partner(name, NAMES) == other


def test_the_partner_of_the_same_number_comes_before_those_of_others():
    assert partner("a_v1_high.safetensors", ["a_v2_low.safetensors", "a_v1_low.safetensors"]) == (
        "a_v1_low.safetensors"
    )


@pytest.mark.parametrize(
    ("high", "low", "headers", "experts"),
    [
        (NAMES[0], NAMES[1], ({}, {}), ("high", "low")),
        (NAMES[3], NAMES[2], ({}, {}), ("low", "high")),
        (NAMES[2], NAMES[2], ({}, {}), (None, None)),
        (NAMES[0], NAMES[0], ({}, {}), ("high", "high")),
        ("a", "b", ({"ss_output_name": "x_high_noise"}, {}), ("high", None)),
        ("a", "b", ({"ss_max_timestep": "900"}, {"ss_min_timestep": "875"}), ("low", "high")),
        ("a", "b", ({"ss_min_timestep": "0", "ss_max_timestep": "1000"}, {}), (None, None)),
        ("a", "b", ({"ss_min_timestep": "x"}, {}), (None, None)),
    ],
)
def test_experts(
    high: str, low: str, headers: tuple[dict[str, str], dict[str, str]], experts: tuple[object, ...]
):
    assert experts_of(Path(high), Path(low), headers) == experts
