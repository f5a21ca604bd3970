"""A process of several: room for a VAE, what it says without, and what it does after a shortage."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.unit.dit.toy import make_dit, make_inputs
from wan_model.config import VaeConfig
from wan_model.dit import run_in_order
from wan_model.errors import MemoryLimitError
from wan_model.offload import HostModel, Limits
from wan_model.vae import build_vae, estimate_peak_bytes
from wan_model.vae.peak_memory import WORKSPACE_BYTES
from wan_model.worker import Worker, rank
from wan_model.worker.placed_experts import PlacedExperts
from wan_model.worker.shared_vae import SharedVae


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What happens while a VAE is loaded; it does not fit as often as this names at first."""
    told: list[str] = []

    def of_file(*_: Any) -> Any:
        told.append("load")
        if "short" in told:
            told.remove("short")
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 MiB.")
        return SimpleNamespace()

    monkeypatch.setattr(rank.SharedVae, "of_file", of_file)
    monkeypatch.setattr(rank.Mesh, "of", lambda _: SimpleNamespace(tokens=None))
    monkeypatch.setattr(Worker, "release", lambda _: told.append("release"))
    return told


def test_experts_make_room_for_a_vae(attempts: list[str]):
    attempts.append("short")
    Worker("cpu", 0, 1).load_vae(__file__, "float32")
    assert attempts == ["load", "release", "load"]


def test_a_vae_that_does_not_fit_is_named(attempts: list[str]):
    attempts += ["short", "short"]
    with pytest.raises(MemoryLimitError, match=r"Got 'CUDA out of memory', need more .* one GPU"):
        Worker("cpu", 0, 1).load_vae(__file__, "float32")
    assert attempts == ["load", "release", "load"]


@pytest.mark.parametrize("operation", ["encode", "decode"])
def test_a_ranks_rows_take_more_than_their_part(operation: Any):
    with torch.device("meta"):
        vae: Any = build_vae(
            VaeConfig(variant="wan2.1", encoder_dim=96, decoder_dim=96, z_dim=16)
        ).bfloat16()
    whole = estimate_peak_bytes(vae.config, operation, 480, 832, torch.bfloat16)

    def peak(ranks: int) -> int:
        team: Any = SimpleNamespace(ranks=ranks)
        return SharedVae(vae, team).peak_bytes(operation, 480, 832)

    assert peak(1) == whole
    assert peak(4) > WORKSPACE_BYTES + (whole - WORKSPACE_BYTES) / 4 * 1.1
    assert peak(8) < peak(4) < peak(2) < whole


def test_less_is_resident_after_each_shortage(monkeypatch: pytest.MonkeyPatch):
    """New processes start where those that ran out of memory left off; the result stays."""
    monkeypatch.setattr(PlacedExperts, "_measured", lambda _: (1e9, 1e9, None))
    monkeypatch.setattr("wan_model.worker.placed_experts.block_seconds", lambda *_: 1.0)
    dit = make_dit(num_layers=6)
    inputs = make_inputs(dit)
    taken = []
    for shortages in (0, 1):
        host, limits = HostModel(dit, dit.blocks), Limits(vram_budget_bytes=1 << 30)
        experts = PlacedExperts([host], torch.device("cpu"), limits, shortages)
        size: Any = tuple(inputs.latent.shape[2:])
        result = experts.run(0, size, 1, lambda run: dit.velocity(*inputs, run), run_in_order)
        assert torch.equal(result, dit(*inputs))
        taken.append(experts.device_bytes)
        experts.release()
    assert taken[0] > taken[1] > 0
