"""Sparse attention: which layers, steps and calls are sparse, and why it cannot run somewhere."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from tests.unit.attention import fakes
from wan_model.attention import (
    Guarded,
    Platform,
    SparseSchedule,
    copies_of,
    guarded,
    resolve_sparse,
)
from wan_model.attention.kernel_timing import checked, exact, rms_error, sample
from wan_model.attention.registry import Selected
from wan_model.attention.sdpa import sdpa
from wan_model.attention.sol import BACKEND, TAU
from wan_model.errors import BackendError


def zeros(q, *_):
    return torch.zeros_like(q)


def ones(q, *_):
    return torch.ones_like(q)


SCHEDULE = SparseSchedule(zeros, ones, min_tokens=8)
QKV = torch.randn(3, 1, 8, 2, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("steps", "dense"), [(1, 1), (4, 1), (5, 1), (20, 4), (21, 5), (50, 10)])
def test_the_first_fifth_of_the_steps_is_dense(steps, dense):
    found = [bool(SCHEDULE.at(1, step, steps)(*QKV).any()) for step in range(steps)]
    assert found == [step < dense for step in range(steps)]
    assert [SCHEDULE.is_sparse(step, steps) for step in range(steps)] == [not x for x in found]


def test_the_first_layer_is_dense():
    assert [bool(SCHEDULE.at(layer, 9, 10)(*QKV).any()) for layer in range(3)] == [
        True,
        False,
        False,
    ]
    wide = replace(SCHEDULE, dense_layers=2, dense_part=0.0)
    assert [bool(wide.at(layer, 0, 4)(*QKV).any()) for layer in range(3)] == [True, True, False]


def test_without_layer_and_step_it_is_dense():
    assert SCHEDULE(*QKV).all()


def test_text_and_few_tokens_are_dense():
    q, k, v = QKV
    attend = SCHEDULE.at(1, 9, 10)
    assert attend(q, k[:, :5], v[:, :5]).all()
    assert attend(q[:, :5], k, v).all()
    assert attend(q[:, :7], k[:, :7], v[:, :7]).all()


def test_it_is_found_with_its_threshold_and_auto_where_it_is_dense():
    calls = []
    package = SimpleNamespace(
        sol_attn=lambda q, *_, **options: calls.append(options) or torch.zeros_like(q),
        sol_attn_is_available=lambda: True,
    )
    platform = fakes.platform({"comfy_kitchen": package})
    schedule = resolve_sparse(torch.bfloat16, platform=platform)
    assert schedule.dense is sdpa
    assert isinstance(schedule.sparse, Selected)
    assert not schedule.sparse.function(*QKV).any()
    assert calls == [{"tau": TAU}]


def test_a_model_that_was_trained_with_it_has_it_everywhere():
    calls = []
    package = SimpleNamespace(
        sol_attn=lambda q, *_, **options: calls.append(options) or torch.zeros_like(q),
        sol_attn_is_available=lambda: True,
    )
    platform = fakes.platform({"comfy_kitchen": package})
    schedule = resolve_sparse(torch.bfloat16, trained=True, platform=platform)
    assert isinstance(schedule.sparse, Selected)
    schedule.sparse.function(*QKV)
    assert calls == [{"topk_ratio": 0.1, "tail": False}]
    everywhere = replace(schedule, sparse=zeros, dense=ones)
    for layer, step in ((0, 0), (0, None), (3, 2)):
        assert everywhere.is_sparse(step, 4)
        assert not everywhere.at(layer, step, 4)(*QKV).any()
    assert everywhere.at(0, 0, 4)(QKV[0], *QKV[1:, :, :5]).all()
    assert not SCHEDULE.is_sparse(None, 4)


@pytest.mark.parametrize(
    ("platform", "reason"),
    [
        (fakes.platform(kind="other"), "needs an NVIDIA GPU or an AMD one"),
        (fakes.platform(), "is not installed"),
        (fakes.platform({"comfy_kitchen": SimpleNamespace()}), "is missing from the installed"),
        (fakes.platform({"comfy_kitchen": fakes.kitchen(False)}), "is not compiled for this GPU"),
        (fakes.platform({"comfy_kitchen": fakes.kitchen()}, (7, 5)), "needs compute capability"),
    ],
)
def test_why_it_cannot_run(platform, reason):
    with pytest.raises(BackendError, match=f"Got 'kitchen_sol', which {reason}"):
        resolve_sparse(torch.bfloat16, platform=platform)


def test_a_dtype_that_it_does_not_take_is_refused_before_the_first_sparse_step():
    platform = fakes.platform({"comfy_kitchen": fakes.kitchen()})
    with pytest.raises(BackendError) as error:
        resolve_sparse(torch.float32, platform=platform)
    assert str(error.value) == (
        "Attention backend 'kitchen_sol' cannot compute this. Got torch.float32, need "
        "torch.bfloat16 or torch.float16. Choose another precision, or 'auto' for attention."
    )


def test_the_sparse_part_is_guarded_and_counted():
    selected = Selected(BACKEND, zeros, by_name=True)
    schedule = guarded(SparseSchedule(selected, sdpa))
    assert isinstance(schedule, SparseSchedule)
    assert isinstance(schedule.sparse, Guarded)
    assert schedule.dense is sdpa
    assert copies_of(schedule) == BACKEND.copies > 0
    other = guarded(SparseSchedule(selected, sdpa))
    assert isinstance(other, SparseSchedule)
    assert other.sparse is not schedule.sparse, "Each expert falls back for itself."


EIGHT_BIT_ERROR = 8e-2
ALL_BLOCKS = -100.0
"""A threshold that every block reaches."""


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="No CUDA device.")
@pytest.mark.parametrize("length", [12_000, 12_345])
def test_with_all_blocks_it_is_dense_attention(length):
    platform = Platform.current()
    if reason := BACKEND.unavailable_reason(platform):
        pytest.skip(f"{BACKEND.name} {reason}")
    q, k, v = sample(length, 4, "cuda")
    before = [x.clone() for x in (q, k, v)]
    package = platform.first_of("comfy_kitchen")
    out = package.sol_attn(q, k, v, tau=ALL_BLOCKS)
    assert rms_error(checked(out), exact(q, k, v)) < EIGHT_BIT_ERROR
    schedule = resolve_sparse(torch.bfloat16)
    sparse = schedule.at(1, 9, 10)(q, k, v)
    assert sparse.isfinite().all()
    assert not torch.equal(sparse, out), "It leaves blocks out."
    assert torch.equal(schedule.at(0, 9, 10)(q, k, v), sdpa(q, k, v))
    assert all(torch.equal(a, b) for a, b in zip((q, k, v), before, strict=True))
