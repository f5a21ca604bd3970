"""Every backend that runs on this GPU, against float64; and the trial of "auto"."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from wan_model.attention import MAX_ERROR, AttentionFn, Platform, names, resolve
from wan_model.attention.kernel_timing import checked, exact, measure, rms_error, sample
from wan_model.attention.registry import BACKENDS, Selected

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="No CUDA device."),
]

REPOSITORY = Path(__file__).parents[3]
LENGTHS = (1024, 2049, 5000)
LOW_PRECISION_ERROR = 8e-2
"""A wrong scale or layout gives about 1; the worst kernel has 4e-2."""
BOUND = {
    b.name: LOW_PRECISION_ERROR if b.constraints.low_precision else MAX_ERROR for b in BACKENDS
}


def attention(name: str):
    if name != "auto":
        backend = next(one for one in BACKENDS if one.name == name)
        if reason := backend.unavailable_reason(Platform.current()):
            pytest.skip(f"{name}: {reason}")
    return resolve(name)


FIRST_CALLS = """
import sys, torch
from wan_model.attention import resolve
from wan_model.attention.kernel_timing import sample
q, k, v = sample(1024, 2, "cuda")
for name in sys.argv[1:]:
    if name == "torch":
        torch.nn.functional.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)))
    else:
        resolve(name)(q, k, v)
    print(torch._C._get_sdp_priority_order())
"""
"""Calls attention by each name given and prints the order of kernels after each."""


@pytest.mark.parametrize("name", names()[1:])
def test_others_get_the_kernel_that_torch_gives_them_anyway(name: str):
    """PyTorch settles the order in a process' first call, so each order of calls has its own."""
    attention(name)
    orders = [
        subprocess.run(
            [sys.executable, "-c", FIRST_CALLS, *calls],
            capture_output=True,
            text=True,
            check=True,
            cwd=REPOSITORY,
        ).stdout.splitlines()[-1]
        for calls in (("torch", "torch"), ("torch", name), (name, "torch"))
    ]
    assert orders == [orders[0]] * 3


@pytest.mark.parametrize("name", names()[1:])
@pytest.mark.parametrize("length", LENGTHS)
def test_self_attention(name: str, length: int):
    q, k, v = sample(length, 6, "cuda")
    before = [x.clone() for x in (q, k, v)]
    expected = exact(q, k, v)
    out = attention(name)(q, k, v)
    assert out.shape == q.shape
    assert out.dtype == torch.bfloat16
    assert rms_error(checked(out), expected) < BOUND[name]
    assert all(torch.equal(a, b) for a, b in zip((q, k, v), before, strict=True))


@pytest.mark.parametrize("name", names())
def test_cross_attention_is_exact_with_every_name(name: str):
    q, k, v = sample(3000, 6, "cuda")
    k, v = k[:, :512].contiguous(), v[:, :512].contiguous()
    assert rms_error(checked(attention(name)(q, k, v)), exact(q, k, v)) < MAX_ERROR


@pytest.mark.parametrize("name", names()[1:])
def test_two_at_once(name: str):
    q, k, v = (torch.cat((x, x.flip(1))) for x in sample(1100, 4, "cuda"))
    out = attention(name)(q, k, v)
    for index in range(2):
        one = slice(index, index + 1)
        assert rms_error(checked(out[one]), exact(q[one], k[one], v[one])) < BOUND[name]


def test_auto_measures_and_remembers(tmp_path):
    memory = tmp_path / "attention.json"
    chosen = resolve("auto", memory=memory)
    written = memory.read_text()
    again = resolve("auto", memory=memory)
    assert memory.read_text() == written
    assert '"sdpa"' in written
    assert type(again) is type(chosen)
    if isinstance(chosen, Selected):
        assert isinstance(again, Selected)
        assert again.backend.name == chosen.backend.name


def test_the_trial_runs_inside_a_meta_context():
    with torch.device("meta"):
        (result,) = measure({"sdpa": resolve("sdpa")})
    assert result.problem is None
    assert result.milliseconds > 0
    assert 1e-3 < result.error < MAX_ERROR


def kernels_of(attend: AttentionFn) -> set[str]:
    """Returns the names of the GPU kernels that attention runs."""
    qkv = sample(2048, 8, "cuda")
    attend(*qkv)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        attend(*qkv)
        torch.cuda.synchronize()
    return {event.key for event in profile.key_averages()}


def theirs(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v)


def test_the_kernel_that_others_get_is_the_same_afterwards():
    before = kernels_of(theirs)
    for name in [name for name in names() if name.startswith("sdpa")]:
        kernels_of(resolve(name))
        assert kernels_of(theirs) == before, name
