"""Weight formats by name: which kernel is taken, and why one cannot be had."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.unit.quant.kitchen import MXFP8_KERNEL, NVFP4_KERNEL
from wan_model.errors import BackendError
from wan_model.quant import (
    AS_STORED,
    DEQUANTIZED,
    GGUF_FORMATS,
    PLAIN,
    SCALED,
    LinearOperands,
    Matmul,
    QuantPolicy,
    WeightFormat,
    find,
    names,
    policy_for,
)
from wan_model.quant.kernels import KERNELS, Fp8Matmul, Int8Matmul, MatmulKernel
from wan_model.quant.policy import AUTO_KERNELS
from wan_model.quant.rotated_formats import CONVROT_INT4

CPU, META = torch.device("cpu"), torch.device("meta")
BLOCKS = ["nvfp4", "nvfp4 storage", "mxfp8"]


def test_names() -> None:
    eight = ["fp8", "fp8 storage", "int8", "int8 convrot"]
    assert names() == [AS_STORED, "auto", "auto, 8 bit", "bf16", "fp16", *eight, *BLOCKS]


@pytest.mark.parametrize(
    ("name", "storage", "computing"),
    [
        ("bf16", torch.bfloat16, torch.bfloat16),
        ("fp16", torch.float16, torch.float16),
        ("fp8", torch.float8_e4m3fn, None),
        ("fp8 storage", torch.float8_e4m3fn, None),
        ("int8", torch.int8, None),
        ("nvfp4 storage", torch.uint8, None),
    ],
)
def test_what_a_name_means(name: str, storage: torch.dtype, computing: torch.dtype | None) -> None:
    policy = policy_for(name, CPU)
    assert policy.target is find(name).format
    assert policy.target is not None
    assert policy.target.dtype == storage
    assert policy.compute_dtype(None, torch.float16) == (computing or torch.float16)


def test_the_first_kernel_that_works_is_taken() -> None:
    (fp8,), (int8,) = policy_for("fp8", CPU).kernels, policy_for("int8", CPU).kernels
    assert fp8.make() == Fp8Matmul()
    assert int8.make() == Int8Matmul()
    assert policy_for("fp8 storage", CPU).kernels == ()
    assert policy_for(AS_STORED, CPU) == QuantPolicy(device=CPU)


@pytest.mark.parametrize("name", ["mxfp4", ""])
def test_unknown_names_are_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(BackendError, match=r"no such weight format\. Got .*need one of .*int8"):
        policy_for(name, CPU)


@pytest.mark.parametrize("name", ["fp8", "int8", "nvfp4", "mxfp8"])
def test_a_format_without_kernel_is_an_error_with_every_reason(name: str) -> None:
    with pytest.raises(BackendError) as caught:
        policy_for(name, META)
    for kernel in find(name).kernels:
        assert f"{kernel.label}: needs an Nvidia GPU" in str(caught.value)
    assert "Choose 'auto'." in str(caught.value)


def on_cpu(kernel: MatmulKernel) -> MatmulKernel:
    return replace(kernel, requires=replace(kernel.requires, on_cpu=True))


@dataclass(frozen=True)
class Wrong:
    """Mixes up features."""

    right: Matmul
    name: str = "wrong"

    def __call__(self, layer: LinearOperands, x: Tensor) -> Tensor:
        return self.right(layer, x).flip(-1)


@dataclass(frozen=True)
class Broken:
    name: str = "broken"

    def __call__(self, layer: LinearOperands, x: Tensor) -> Tensor:  # noqa: ARG002
        raise RuntimeError("no kernel image\nfor this device")


def missing(_: Matmul) -> Matmul:
    raise ModuleNotFoundError("No module named 'comfy_kitchen'")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda right: right, None),
        (Wrong, "gives wrong results here (error 1"),
        (lambda _: Broken(), "RuntimeError: no kernel image"),
        (missing, "ModuleNotFoundError: No module named 'comfy_kitchen'"),
    ],
)
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.label)
def test_a_kernel_is_tried_before_it_is_believed(
    kernel: MatmulKernel, make: Callable[[Matmul], Matmul], reason: str | None
) -> None:
    tried = on_cpu(replace(kernel, make=lambda: make(DEQUANTIZED)))
    got = tried.unavailable_reason(CPU)
    assert str(got).startswith(str(reason))
    assert "\n" not in str(got)


@pytest.mark.parametrize("kernel", [NVFP4_KERNEL, MXFP8_KERNEL], ids=lambda k: k.format.name)
@pytest.mark.parametrize("offset", [0, 4, 16, 512])
def test_scales_in_a_wrong_place_are_noticed(kernel: MatmulKernel, offset: int) -> None:
    """Offsets are those of other columns, rows and tiles."""
    matmul: Any = kernel.make()

    def misplaced(*codes: Tensor, block_scale_b: Tensor, **rest: Any) -> Tensor:
        raw = block_scale_b.view(torch.uint8)
        moved = raw.flatten().roll(offset).view_as(raw).view(block_scale_b.dtype)
        return matmul.scaled_mm(*codes, block_scale_b=moved, **rest)

    wrong = on_cpu(replace(kernel, make=lambda: replace(matmul, scaled_mm=misplaced)))
    assert (wrong.unavailable_reason(CPU) is None) == (offset == 0)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.label)
@pytest.mark.parametrize("below", [True, False])
def test_older_gpus_are_named(
    kernel: MatmulKernel, below: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    major, minor = kernel.requires.capability
    has = (major, minor - 1) if below else (major, minor)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: has)
    monkeypatch.setattr(type(kernel), "_failed_trial", lambda *_: "tried")
    reason = kernel.unavailable_reason(torch.device("cuda"))
    wanted = f"needs compute capability {major}.{minor}, this GPU has {major}.{minor - 1}"
    assert reason == (wanted if below else "tried")


FP8, BF16 = torch.float8_e4m3fn, torch.bfloat16
CUDA = torch.device("cuda")
GGUF = {kind.name: kind for kind in GGUF_FORMATS}


@pytest.mark.parametrize(
    ("stored", "capability", "multiplied", "reason"),
    [
        ([SCALED[FP8]], (8, 9), ["fp8 scaled"], "holds fp8; this GPU (8.9) multiplies it"),
        ([PLAIN[FP8]], (9, 0), ["fp8 scaled"], "holds fp8; this GPU (9.0) multiplies it"),
        ([SCALED[FP8]], (8, 6), [], "holds fp8; torch._scaled_mm, scaled afterwards: needs comp"),
        ([PLAIN[BF16]], (9, 0), [], "the file holds bf16"),
        ([SCALED[torch.float8_e5m2]], (9, 0), [], "the file holds fp8 e5m2 scaled"),
        (
            [SCALED[torch.int8], SCALED[FP8]],
            (8, 6),
            ["int8 scaled"],
            "holds fp8 and int8; this GPU (8.6) multiplies int8; torch._scaled_mm",
        ),
        (
            [GGUF["Q4_K"], GGUF["Q6_K"]],
            (8, 9),
            ["fp8 scaled"],
            "holds Q4_K and Q6_K, to be expanded; this GPU (8.9) multiplies it so",
        ),
        ([GGUF["IQ4_XS"]], (8, 6), ["int8 scaled"], "this GPU (8.6) multiplies it so"),
        ([GGUF["Q4_0"]], (7, 0), [], "holds Q4_0; torch._scaled_mm, scaled afterwards: needs"),
        ([GGUF["Q6_K"], GGUF["Q8_0"]], (9, 0), [], "the file holds Q6_K and Q8_0"),
        (
            [CONVROT_INT4[256], PLAIN[BF16]],
            (9, 0),
            ["int8 convrot"],
            "holds int4 convrot; this GPU (9.0) multiplies it",
        ),
    ],
)
def test_auto_multiplies_what_the_gpu_can(
    stored: list[WeightFormat],
    capability: tuple[int, int],
    multiplied: list[str],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(MatmulKernel, "_failed_trial", lambda *_: None)
    policy = policy_for("auto", CUDA, stored)
    assert [kernel.format.name for kernel in policy.multiplied] == multiplied
    assert policy.target is None
    assert set(policy.multiplied) <= set(AUTO_KERNELS)
    assert all(kernel.format not in stored for kernel in policy.expanded)
    assert reason in policy.reason


def test_auto_honours_a_file_that_asks_for_full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(MatmulKernel, "_failed_trial", lambda *_: None)
    policy = policy_for("auto", CUDA, [SCALED[FP8]], full_precision=True)
    assert policy.kernels == ()
    assert policy.reason == "the file holds fp8 and asks for matmuls in full precision"
    assert policy_for("fp8", CUDA, [SCALED[FP8]], full_precision=True).kernels
