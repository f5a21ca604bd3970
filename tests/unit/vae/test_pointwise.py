"""The choice of kernels for pointwise work: only those that give right numbers, and few of them."""

import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.parity.recipe import value
from tests.unit.launches import Launches
from wan_model.compile_ahead import CompiledAhead
from wan_model.config import VaeConfig
from wan_model.vae import build_vae, kernel_choice
from wan_model.vae.feature_cache import FeatureCache
from wan_model.vae.full import compile_kernels
from wan_model.vae.kernel_choice import TOLERANCE, fastest_pointwise, trial_error
from wan_model.vae.layers import RMSNorm
from wan_model.vae.pointwise import PLAIN, Past, PlainPointwise, Pointwise

interpreted = pytest.mark.skipif(torch.cuda.is_available(), reason="Not interpreted on a GPU.")

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


def same_as_plain(kernels: Pointwise, channels: int, device: torch.device) -> None:
    """Checks frames of more pixels than a tile has, and of any width: VAEs', images' and others."""
    x = value("x", (1, 13, 17, channels)).to(device, torch.float16)
    norm = RMSNorm(channels, 3).to(device, torch.float16).requires_grad_(False)
    bias = x[0, 0, 0].clone()
    y = value("y", (1, 14, 18, 4 * channels)).to(device, torch.float16)

    def results(pointwise: Pointwise) -> list[Tensor]:
        found = []
        for given in (None, bias):
            found += pointwise.norm_silu(x.clone(), given, norm, (x.cos(), x.sin()))
        found += [pointwise.add(x.clone(), bias, shortcut) for shortcut in (None, x)]
        shortcuts = (None, x, x.repeat(1, 1, 1, 2))
        return [*found, *(pointwise.interleave(y.clone(), bias, given) for given in shortcuts)]

    for plain, ours in zip(results(PLAIN), results(kernels), strict=True):
        torch.testing.assert_close(ours, plain, atol=4e-3, rtol=4e-3)


@interpreted
@pytest.mark.parametrize("channels", [3, 12, 96, 300])
def test_kernels_take_frames_of_any_width(channels: int) -> None:
    kernels = pytest.importorskip("wan_model.vae.triton_kernels")
    same_as_plain(kernels.TritonPointwise(), channels, CPU)


@interpreted
@pytest.mark.parametrize(
    "config",
    [
        VaeConfig(variant="wan2.1", encoder_dim=96, decoder_dim=96, z_dim=16),
        VaeConfig(variant="wan2.2", encoder_dim=160, decoder_dim=256, z_dim=48),
    ],
    ids=lambda config: config.variant,
)
def test_a_vae_compiles_eight_kernels_for_all_it_does(
    config: VaeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each takes a quarter of a second; 35 were compiled once, and others for another size.

    They are those that are compiled ahead.
    """
    kernels = pytest.importorskip("wan_model.vae.triton_kernels")
    compiled: set[Any] = set()
    for name in ("_norm_silu", "_add", "_interleave"):
        monkeypatch.setattr(kernels, name, Launches(getattr(kernels, name), compiled))
    compile_kernels(config, torch.bfloat16)
    ahead = compiled.copy()
    with torch.device("meta"), torch.no_grad():
        vae = build_vae(config).to(torch.bfloat16)
        for height, width in ((60, 104), (44, 80), (17, 33)):
            for first in (True, False):
                cache = FeatureCache(kernels.TritonPointwise())
                cache.first = first
                latent = torch.empty(1, vae.config.z_dim, 1, height, width, dtype=torch.bfloat16)
                video = vae.decoder(latent, cache)
                cache = FeatureCache(kernels.TritonPointwise())
                cache.first = first
                vae.encoder(video, cache)
    trial_error(kernels.TritonPointwise(), CPU, torch.bfloat16)
    assert compiled == ahead
    assert len(compiled) <= 8, sorted(map(str, compiled))


@pytest.mark.parametrize("operation", ["decode", "encode"])
def test_a_vae_waits_for_what_is_compiled_ahead(
    operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[str] = []
    vae = build_vae(VaeConfig(variant="wan2.1", encoder_dim=8, decoder_dim=8, z_dim=16))
    monkeypatch.setattr(CompiledAhead, "wait", lambda _: waited.append(operation))
    shape = (1, 16, 1, 2, 2) if operation == "decode" else (1, 3, 1, 16, 16)
    getattr(vae, operation)(torch.zeros(shape))
    assert waited
