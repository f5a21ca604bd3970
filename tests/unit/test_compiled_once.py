"""Triton's kernels are compiled for layers, and never again for another video."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch

from tests.unit.launches import Launches
from wan_model.dit.modulation import Modulation
from wan_model.quant import column_scales

pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="Not interpreted on a GPU.")

LENGTHS = (1, 512, 8184, 8192)
"""Tokens of a run: of texts, of whole runs and of the last ones."""


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> Callable[..., set[Any]]:
    """Replaces kernels of a module, and returns what Triton would compile from then on."""

    def replace(module: ModuleType, *names: str) -> set[Any]:
        found: set[Any] = set()
        for name in names:
            monkeypatch.setattr(module, name, Launches(getattr(module, name), found))
        return found

    return replace


def empty(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def test_scales_of_columns(compiled: Callable[..., set[Any]]):
    """Once for one scale and once for many, the trial included."""
    from wan_model.quant import scaling_kernels as kernels

    found = compiled(kernels, "_scale")
    column_scales.trial_error(kernels.scale_in_place, "cpu", torch.bfloat16)
    for rows in LENGTHS:
        for width in (5120, 13824):
            for scale in (empty(1, dtype=torch.float32), empty(width, 1, dtype=torch.float32)):
                for bias in (None, empty(width)):
                    kernels.scale_in_place(empty(1, rows, width), scale, bias)
    assert len(found) == 2


def test_attention_in_fp8(compiled: Callable[..., set[Any]]):
    """Sums, and codes with and without a rotation."""
    from wan_model.attention import fp8_kernels as kernels

    found = compiled(kernels, "_statistics", "_quantize")
    for length in (32760, 75600):
        for heads in (24, 40):
            x = empty(1, length, heads, 128)
            mean, factor = (empty(1, 1, heads, dtype=torch.float32) for _ in range(2))
            kernels.statistics(x)
            for rotation in (None, empty(128, 128)):
                kernels.quantize(x, mean, factor, rotation)
    assert len(found) == 3


def test_fused_stages(compiled: Callable[..., set[Any]]):
    """Two norms of a token, of which one adds a branch, and one of heads."""
    from wan_model.dit import fused_kernels as kernels

    found = compiled(kernels, "_add_and_norm", "_rms_norm", "_activate")
    wanted = kernels.Wanted(torch.bfloat16, codes=True)
    weight = empty(5120, dtype=torch.float32)
    for batch in (1, 2):
        for length in LENGTHS:
            x, branch = empty(batch, length, 5120, dtype=torch.float32), empty(batch, length, 5120)
            for timesteps in (1, length):
                index = torch.empty(batch, timesteps, dtype=torch.int64, device="meta")
                by = Modulation(empty(timesteps, 3, 5120, dtype=torch.float32), index)
                kernels.norm(x, 1e-6, wanted, by)
                kernels.norm(x, 1e-6, wanted, by, branch, by)
            kernels.rms_norm(branch, weight, 1e-6, empty(batch, length, 40, 128))
            kernels.gelu(branch, wanted)
    assert len(found) == 4
