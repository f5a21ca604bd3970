"""Choosing an attention backend: a name means that backend or an error that explains itself."""

import pytest
import torch

from wan_model.attention import Backend, BackendStatus, explain, names, registry, resolve
from wan_model.attention.sdpa import always_available, sdpa
from wan_model.errors import BackendError

NO_GPU = "needs an NVIDIA GPU"


def fast(q, k, v):  # noqa: ARG001
    """Stands in for a backend that another issue brings."""
    return v


@pytest.fixture
def with_backend(monkeypatch):
    """Returns a function that puts a backend "fast" before sdpa."""

    def put(reason: str | None) -> None:
        backend = Backend("fast", "Fast attention", fast, lambda: reason)
        monkeypatch.setattr(registry, "BACKENDS", (backend, *registry.BACKENDS))

    return put


def test_sdpa_is_always_there():
    assert always_available() is None
    assert resolve("sdpa") is sdpa
    assert resolve("auto") is sdpa
    assert names() == ["auto", "sdpa"]


def test_auto_prefers_the_first_backend_that_runs(with_backend):
    with_backend(None)
    assert resolve("auto") is fast
    assert resolve("fast") is fast
    assert resolve("sdpa") is sdpa
    assert names() == ["auto", "fast", "sdpa"]


def test_auto_passes_over_a_backend_that_cannot_run(with_backend):
    with_backend(NO_GPU)
    assert resolve("auto") is sdpa
    assert names() == ["auto", "fast", "sdpa"]


def test_a_name_asked_for_is_never_replaced(with_backend):
    with_backend(NO_GPU)
    with pytest.raises(BackendError) as error:
        resolve("fast")
    assert str(error.value) == (
        "Attention backend not available. Got 'fast', need one that runs here "
        f"(fast: {NO_GPU}; sdpa: available). Choose 'auto'."
    )


@pytest.mark.parametrize("name", ["flash_attn_9", "SDPA", ""])
def test_an_unknown_name_lists_what_there_is(with_backend, name):
    with_backend(NO_GPU)
    with pytest.raises(BackendError) as error:
        resolve(name)
    assert f"Got {name!r}" in str(error.value)
    assert f"(fast: {NO_GPU}; sdpa: available)" in str(error.value)


def test_explain_says_why(with_backend):
    with_backend(NO_GPU)
    assert explain() == [
        BackendStatus("fast", "Fast attention", NO_GPU),
        BackendStatus("sdpa", "PyTorch scaled dot product attention", "available"),
    ]


def test_availability_is_asked_when_it_is_needed(monkeypatch):
    # A backend may become available while the program runs; nothing may be remembered.
    reasons: list[str | None] = [NO_GPU, None]
    backend = Backend("fast", "Fast attention", fast, lambda: reasons.pop(0))
    monkeypatch.setattr(registry, "BACKENDS", (backend, *registry.BACKENDS))
    assert resolve("auto") is sdpa
    assert resolve("auto") is fast


@pytest.mark.parametrize("name", names())
def test_every_backend_keeps_to_the_contract(name):
    q, k, v = torch.randn(3, 2, 5, 4, 16, generator=torch.Generator().manual_seed(0))
    out = resolve(name)(q, k[:, :3], v[:, :3])
    assert out.shape == q.shape
    assert out.dtype == v.dtype
