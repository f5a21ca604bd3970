"""The choice of kernels for pointwise work: only those that give right numbers."""

import sys
from types import ModuleType

import pytest
import torch
from torch import Tensor

from wan_model.vae import kernel_choice
from wan_model.vae.kernel_choice import TOLERANCE, fastest_pointwise, trial_error
from wan_model.vae.pointwise import PLAIN, Past, PlainPointwise

CPU, GPU = torch.device("cpu"), torch.device("cuda")


class NoBias(PlainPointwise):
    """Forgets the bias of the norm."""

    def norm_silu(self, x: Tensor, _bias: Tensor | None, norm: torch.nn.Module, past: Past):
        return super().norm_silu(x, None, norm, past)


class NewestFirst(PlainPointwise):
    """Takes the past in the wrong order."""

    def norm_silu(self, x: Tensor, bias: Tensor | None, norm: torch.nn.Module, past: Past):
        return super().norm_silu(x, bias, norm, (past[1], past[0]))


class NoShortcut(PlainPointwise):
    """Forgets what is to be added."""

    def add(self, y: Tensor, bias: Tensor, _x: Tensor | None) -> Tensor:
        return super().add(y, bias, None)


class Transposed(PlainPointwise):
    """Takes the phases in another order."""

    def interleave(self, y: Tensor, bias: Tensor, x: Tensor | None) -> Tensor:
        phases = y.unflatten(-1, (2, 2, -1)).transpose(-3, -2).flatten(-3)
        return super().interleave(phases, bias, x)


class SameRows(PlainPointwise):
    """Gives both rows the first channel of a pair."""

    def interleave(self, y: Tensor, bias: Tensor, x: Tensor | None) -> Tensor:
        if x is not None and x.shape[-1] > len(bias):
            x = x[..., ::2]
        return super().interleave(y, bias, x)


def test_a_trial_finds_every_fault() -> None:
    assert trial_error(PLAIN, CPU, torch.bfloat16) == 0
    for faulty in (NoBias(), NewestFirst(), NoShortcut(), Transposed(), SameRows()):
        assert trial_error(faulty, CPU, torch.bfloat16) > 2 * TOLERANCE, type(faulty).__name__


@pytest.fixture
def triton_substitute(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Replaces the module of kernels, with the trial on the CPU."""
    module = ModuleType("wan_model.vae.triton_kernels")
    module.TritonPointwise = PlainPointwise
    monkeypatch.setitem(sys.modules, module.__name__, module)
    on_cpu = trial_error
    monkeypatch.setattr(
        kernel_choice, "trial_error", lambda kernels, _, dtype: on_cpu(kernels, CPU, dtype)
    )
    return module


def test_triton_is_used_where_it_works(triton_substitute: ModuleType) -> None:
    chosen = fastest_pointwise(GPU, torch.bfloat16)
    assert isinstance(chosen, triton_substitute.TritonPointwise)
    assert chosen is not PLAIN
    assert fastest_pointwise(CPU, torch.bfloat16) is PLAIN
    assert fastest_pointwise(GPU, torch.float64) is PLAIN


def test_triton_is_left_where_it_is_wrong(
    triton_substitute: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    triton_substitute.TritonPointwise = NoShortcut
    assert fastest_pointwise(GPU, torch.bfloat16) is PLAIN
    assert "wrong numbers" in caplog.text


def test_triton_is_left_where_it_fails(triton_substitute: ModuleType) -> None:
    class NoCompilerError(Exception):
        """As raised by what Triton calls."""

    def fail() -> None:
        raise NoCompilerError

    triton_substitute.TritonPointwise = fail
    assert fastest_pointwise(GPU, torch.bfloat16) is PLAIN
