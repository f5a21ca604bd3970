"""What a missing kernel would bring, and the 8-bit kernels of the later steps."""

from types import SimpleNamespace

import pytest
import torch

from tests.unit.attention import fakes
from wan_model.attention import SparseSchedule, advice, copies_of, guarded, name_of, resolve_fast
from wan_model.attention.auto import Measurement

BF16 = torch.bfloat16
FA3 = {"fa3_fwd_interface": fakes.flash()}


def names(platform) -> list[str]:
    return [missing.backend.name for missing in advice(platform)]


@pytest.mark.parametrize(
    ("capability", "modules", "expected"),
    [
        ((9, 0), {}, ["flash_attn_3"]),
        ((9, 0), FA3, []),
        ((8, 9), {}, ["sage_fp8_cuda"]),
        ((8, 9), fakes.sage_1(), ["sage_fp8_cuda"]),
        ((8, 9), fakes.sage_2(), []),
        ((12, 0), {}, ["sage_fp8_cuda"]),
        ((8, 6), {}, ["sage"]),
        ((8, 6), fakes.sage_1(), []),
        ((7, 5), {}, []),
        ((10, 0), {}, []),
    ],
)
def test_what_is_missing_and_worth_it_is_named(capability, modules, expected):
    platform = fakes.platform(modules, capability=capability)
    assert names(platform) == expected


def test_a_cpu_and_other_vendors_are_left_in_peace():
    assert not names(fakes.platform(kind="other"))
    assert not names(fakes.platform(kind="rocm", capability=(9, 0)))


def test_the_sentence_says_what_it_brings_and_how_to_get_it():
    (exact,) = advice(fakes.platform(capability=(9, 0)))
    (coarse,) = advice(fakes.platform(capability=(8, 9)))
    assert str(exact) == (
        "FlashAttention-3 is not there, which attends 1.1 times as fast on H100, H200 (an H200, "
        "benchmarks/RESULTS.md), as exact as now: about 9% less time for a step at 1280x720x81. "
        "To get it: pip install fa3-fwd."
    )
    assert "attends 2.6 times as fast on RTX 40" in str(coarse)
    assert "in 8 bit, so coarser" in str(coarse)


class Trial:
    """Measures with given times and errors."""

    def __init__(self, **results: tuple[float, float]) -> None:
        self.results = {"sdpa": (40.0, 2e-3), **results}

    def __call__(self, functions, _) -> list[Measurement]:
        return [Measurement(name, *self.results.get(name, (99.0, 2e-3))) for name in functions]


ADA = fakes.platform(fakes.sage_2(), capability=(8, 9))


@pytest.mark.parametrize(
    ("result", "dtype", "chosen"),
    [
        ((15.0, 4e-2), BF16, True),
        ((15.0, 7e-2), BF16, False),
        ((45.0, 4e-2), BF16, False),
        ((15.0, 4e-2), torch.float32, False),
    ],
)
def test_auto_fast_takes_8_bit_within_its_bound_where_it_is_faster(result, dtype, chosen, tmp_path):
    measure = Trial(sage_fp8_cuda=result)
    options = {"memory": tmp_path / "attention.json", "platform": ADA, "measure": measure}
    attend = resolve_fast(dtype, **options)
    assert isinstance(attend, SparseSchedule) == chosen
    assert name_of(attend) == "sdpa"
    if isinstance(attend, SparseSchedule):
        assert name_of(attend.sparse) == "sage_fp8_cuda"
        assert copies_of(guarded(attend)) > 0
        assert attend.at(0, 0, 10) is attend.dense
        assert attend.at(0, 1, 10) is attend.dense
        assert attend.at(0, 2, 10) == attend.sparse_within_video


def test_the_text_stays_exact():
    calls = []

    def fast(*_):
        calls.append("fast")

    def exact(*_):
        calls.append("exact")

    schedule = SparseSchedule(fast, exact, dense_layers=0, min_tokens=1024)
    video, text = SimpleNamespace(shape=(1, 2000, 1, 8)), SimpleNamespace(shape=(1, 512, 1, 8))
    later = schedule.at(0, 9, 10)
    later(video, video, video)
    later(video, text, text)
    assert calls == ["fast", "exact"]
