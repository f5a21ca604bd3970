"""What `auto` picks for well known GPUs and models."""

import pytest

from wan_model.quant import choose_precision, names

GIB = 1 << 30
A14B = 28_577_000_000
TI2V_5B = 10_000_000_000


@pytest.mark.parametrize(
    ("gpu", "capability", "free_gib", "model_bytes", "stored", "weights"),
    [
        ("H100", (9, 0), 78, A14B, "bf16", "bf16"),
        ("H100", (9, 0), 78, A14B, "fp32", "bf16"),
        ("H100", (9, 0), 78, A14B, "fp16", "fp16"),
        ("H100, busy", (9, 0), 30, A14B, "bf16", "fp8"),
        ("H100", (9, 0), 78, A14B, "fp8 scaled", "fp8"),
        ("H100", (9, 0), 78, A14B, "int8 scaled", "int8"),
        ("5090", (12, 0), 31, A14B, "fp16", "fp8"),
        ("5090", (12, 0), 31, TI2V_5B, "fp16", "fp16"),
        ("4090", (8, 9), 23, A14B, "fp8 scaled", "fp8"),
        ("4090", (8, 9), 23, A14B, "fp8", "fp8"),
        ("4090", (8, 9), 23, A14B, "mixed (fp8 scaled, bf16)", "fp8"),
        ("4060", (8, 9), 7, TI2V_5B, "fp16", "fp8"),
        ("3090", (8, 6), 23, A14B, "fp8 scaled", "int8"),
        ("3090", (8, 6), 23, A14B, "fp16", "int8"),
        ("3090", (8, 6), 23, TI2V_5B, "bf16", "bf16"),
        ("A100", (8, 0), 79, A14B, "bf16", "bf16"),
        ("2080", (7, 5), 7, A14B, "int8 scaled", "int8"),
        ("RTX 8000", (7, 5), 47, A14B, "bf16", "fp16"),
        ("V100", (7, 0), 15, A14B, "fp16", "fp8 storage"),
        ("V100", (7, 0), 15, A14B, "fp8 scaled", "as stored"),
        ("none", None, 0, A14B, "bf16", "as stored"),
    ],
)
def test_choice(
    gpu: str,
    capability: tuple[int, int] | None,
    free_gib: int,
    model_bytes: int,
    stored: str,
    weights: str,
) -> None:
    choice = choose_precision(capability, free_gib * GIB, model_bytes, stored)
    assert choice.weights == weights, gpu
    assert choice.weights in names()
    assert choice.reason.endswith(".")
    if capability is not None and "fit" not in choice.reason:
        assert f"{capability[0]}.{capability[1]}" in choice.reason


def test_the_reason_has_the_numbers() -> None:
    choice = choose_precision((8, 9), 23 * GIB, A14B)
    assert choice.reason == (
        "16-bit weights leave too little room (26.6 of 23.0 GiB); this GPU (8.9) multiplies fp8."
    )
