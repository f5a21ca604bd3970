"""Number formats by name: which kernel is taken, and why one cannot be had."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.unit.quant.kitchen import MXFP8_PRODUCTS, NVFP4_PRODUCTS
from wan_model.errors import BackendError
from wan_model.quant import (
    AS_STORED,
    LinearOperands,
    PlainFormat,
    WeightFormat,
    find,
    names,
    resolve,
)
from wan_model.quant.fp8 import Fp8Format
from wan_model.quant.int8 import Int8Format
from wan_model.quant.kernels import FP8_KERNELS, INT8_KERNELS, MXFP8_KERNELS, NVFP4_KERNELS, Kernel

CPU, META = torch.device("cpu"), torch.device("meta")
KERNELS = (*FP8_KERNELS, *INT8_KERNELS, *NVFP4_KERNELS, *MXFP8_KERNELS)
BLOCKS = ["nvfp4", "nvfp4 storage", "mxfp8"]


def test_names() -> None:
    assert names() == [AS_STORED, "auto", "bf16", "fp16", "fp8", "fp8 storage", "int8", *BLOCKS]


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
    plan = resolve(name, CPU)
    assert plan.number_format is find(name)
    assert plan.number_format.storage.dtype == storage
    assert plan.default_compute_dtype == computing


def test_the_first_kernel_that_works_is_taken() -> None:
    fp8, int8 = resolve("fp8", CPU).kernel, resolve("int8", CPU).kernel
    assert fp8 is not None
    assert int8 is not None
    assert isinstance(fp8.make(), Fp8Format)
    assert isinstance(int8.make(), Int8Format)
    assert resolve("fp8 storage", CPU).kernel is None


@pytest.mark.parametrize("name", ["mxfp4", "auto", AS_STORED, ""])
def test_unknown_names_are_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(BackendError, match=r"no such number format\. Got .*need one of .*int8"):
        resolve(name, CPU)


@pytest.mark.parametrize("name", ["fp8", "int8", "nvfp4", "mxfp8"])
def test_a_format_without_kernel_is_an_error_with_every_reason(name: str) -> None:
    with pytest.raises(BackendError) as caught:
        resolve(name, META)
    for kernel in find(name).kernels:
        assert f"{kernel.label}: needs an Nvidia GPU" in str(caught.value)
    assert "Choose 'auto'." in str(caught.value)


@dataclass(frozen=True)
class Wrong(PlainFormat):
    """Mixes up features."""

    right: WeightFormat

    def matmul(self, layer: LinearOperands, x: Tensor) -> Tensor:
        return self.right.matmul(layer, x).flip(-1)


class Broken(PlainFormat):
    def matmul(self, layer: LinearOperands, x: Tensor) -> Tensor:  # noqa: ARG002
        raise RuntimeError("no kernel image\nfor this device")


def missing(_: WeightFormat) -> WeightFormat:
    raise ModuleNotFoundError("No module named 'comfy_kitchen'")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda right: right, None),
        (Wrong, "gives wrong numbers here (error 1"),
        (lambda _: Broken(), "RuntimeError: no kernel image"),
        (missing, "ModuleNotFoundError: No module named 'comfy_kitchen'"),
    ],
)
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.label)
def test_a_kernel_is_tried_before_it_is_believed(
    kernel: Kernel, make: Callable[[WeightFormat], WeightFormat], reason: str | None
) -> None:
    tried = replace(kernel, make=lambda: make(kernel.storage.widening), on_cpu=True)
    got = tried.unavailable_reason(CPU)
    assert str(got).startswith(str(reason))
    assert "\n" not in str(got)


@pytest.mark.parametrize("kernel", [NVFP4_PRODUCTS, MXFP8_PRODUCTS], ids=lambda k: k.storage.name)
@pytest.mark.parametrize("offset", [0, 4, 16, 512])
def test_scales_in_a_wrong_place_are_noticed(kernel: Kernel, offset: int) -> None:
    """Offsets are those of other columns, rows and tiles."""
    products: Any = kernel.make()

    def misplaced(*numbers: Tensor, block_scale_b: Tensor, **rest: Any) -> Tensor:
        raw = block_scale_b.view(torch.uint8)
        moved = raw.flatten().roll(offset).view_as(raw).view(block_scale_b.dtype)
        return products.scaled_mm(*numbers, block_scale_b=moved, **rest)

    wrong = replace(kernel, make=lambda: replace(products, scaled_mm=misplaced), on_cpu=True)
    assert (wrong.unavailable_reason(CPU) is None) == (offset == 0)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.label)
@pytest.mark.parametrize("below", [True, False])
def test_older_gpus_are_named(kernel: Kernel, below: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    major, minor = kernel.min_capability
    has = (major, minor - 1) if below else (major, minor)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: has)
    monkeypatch.setattr(type(kernel), "_failed_trial", lambda *_: "tried")
    reason = kernel.unavailable_reason(torch.device("cuda"))
    wanted = f"needs compute capability {major}.{minor}, this GPU has {major}.{minor - 1}"
    assert reason == (wanted if below else "tried")
