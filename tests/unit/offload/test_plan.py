"""Properties that every plan has."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from wan_model.errors import MemoryLimitError, SettingsError
from wan_model.offload import Limits, Machine, ModelSizes, PlanRequest, Work, lowered, make_plan
from wan_model.offload.plan import DEFAULT_PINNED_BYTES, resident_blocks, smallest

GIB, MIB = 1 << 30, 1 << 20

A14B_FP8 = ModelSizes(blocks=40, block_bytes=336 * MIB, outside_bytes=222 * MIB, experts=2)


@st.composite
def requests(draw: st.DrawFn) -> PlanRequest:
    """Requests most of which can be met: there is room for the activations and two blocks."""
    sizes = ModelSizes(
        blocks=draw(st.integers(1, 48)),
        block_bytes=draw(st.integers(1, GIB)),
        outside_bytes=draw(st.integers(1, GIB)),
        experts=draw(st.integers(1, 2)),
    )
    work = Work(
        activation_bytes=draw(st.integers(0, 10 * GIB)),
        block_seconds=draw(st.floats(1e-3, 1)),
        run_bytes=draw(st.integers(0, GIB)),
    )
    least = work.activation_bytes + work.run_bytes + sizes.outside_bytes + 2 * sizes.block_bytes
    machine = Machine(
        free_vram_bytes=least + draw(st.integers(0, 90 * GIB)),
        free_ram_bytes=draw(st.integers(0, 128 * GIB)),
        copy_rate=draw(st.floats(1e9, 6e10)),
        read_rate=draw(st.floats(1e9, 4e10)),
        disk_rate=draw(st.floats(1e8, 1e10)),
    )
    limits = Limits(
        blocks_to_swap=draw(st.none() | st.integers(0, sizes.blocks)),
        vram_budget_bytes=draw(st.none() | st.integers(least, least + 40 * GIB)),
        pinned_ram_bytes=draw(st.none() | st.integers(0, 40 * GIB)),
        prefetch_blocks=draw(st.none() | st.integers(0, min(6, sizes.blocks))),
    )
    return PlanRequest(sizes=sizes, machine=machine, work=work, limits=limits)


REQUESTS = requests()


def a14b(vram_gib: float, activation_gib: float = 3.0, **changes) -> PlanRequest:
    return PlanRequest(
        sizes=changes.pop("sizes", A14B_FP8),
        machine=Machine(
            free_vram_bytes=int(vram_gib * GIB), free_ram_bytes=changes.pop("ram", 64) * GIB
        ),
        work=Work(
            activation_bytes=int(activation_gib * GIB), block_seconds=changes.pop("block", 0.1)
        ),
        limits=Limits(**changes),
    )


def plan_or_skip(request: PlanRequest):
    try:
        return make_plan(request)
    except (MemoryLimitError, SettingsError):
        assume(False)
        raise


@given(REQUESTS)
def test_plans_keep_the_limits(request):
    plan, sizes, limits = plan_or_skip(request), request.sizes, request.limits
    assert plan.peak_bytes <= request.limit_bytes
    assert plan.peak_bytes - plan.weight_bytes == request.work.video_bytes
    assert plan.slots <= plan.streamed
    assert (plan.slots > 0) == (plan.streamed > 0)
    assert set(plan.resident) | set(plan.kept) <= set(range(sizes.blocks))
    assert len(set(plan.resident)) == len(plan.resident)
    assert not plan.kept or (not plan.streamed and sizes.experts == 2)
    assert plan.buffers <= sizes.blocks * sizes.experts
    assert 1 <= plan.outsides <= sizes.experts
    if limits.blocks_to_swap is not None:
        assert plan.streamed == limits.blocks_to_swap
    if limits.prefetch_blocks is not None:
        assert plan.slots == min(limits.prefetch_blocks + 1, plan.streamed)
    if limits.pinned_ram_bytes is not None:
        assert plan.pinned_bytes <= limits.pinned_ram_bytes
    else:
        assert plan.pinned_bytes <= DEFAULT_PINNED_BYTES
    for pinned in plan.pinned:
        assert not set(pinned) & set(plan.resident)


@given(REQUESTS, st.integers(0, 20 * GIB))
def test_more_memory_never_makes_a_plan_slower(request, more):
    plan = plan_or_skip(request)
    machine = replace(request.machine, free_vram_bytes=request.machine.free_vram_bytes + more)
    larger = make_plan(replace(request, machine=machine))
    assert larger.streamed <= plan.streamed
    assert larger.weight_bytes >= plan.weight_bytes


@given(REQUESTS, st.integers(0, 40 * GIB))
def test_a_lowered_plan_frees_what_is_asked_or_is_the_smallest(request, nbytes):
    plan = plan_or_skip(request)
    less = lowered(plan, nbytes)
    assert less.weight_bytes <= plan.weight_bytes
    if plan.weight_bytes - less.weight_bytes < nbytes:
        assert less == smallest(plan)
        assert not less.resident
    assert (less.slots > 0) == (less.streamed > 0)


def test_the_waiting_expert_gives_way_first():
    plan = make_plan(a14b(40))
    given, block = [], A14B_FP8.block_bytes
    for count in range(1, 82):
        less = lowered(plan, count * block)
        given.append((len(less.kept), less.outsides, len(less.resident)))
    waiting = [(kept, 2, 40) for kept in reversed(range(40))]
    assert given[:40] == waiting
    # Its embeddings are next, and what is still missing comes from the blocks that run.
    assert given[40] == (0, 1, 37)
    assert all(kept == 0 and outsides == 1 for kept, outsides, _ in given[40:])


@given(st.integers(1, 60), st.data())
def test_streamed_blocks_are_spread_evenly(blocks, data):
    resident = resident_blocks(data.draw(st.integers(0, blocks - 1)), blocks)
    streamed = [i for i in range(blocks) if i not in resident]
    assert len(streamed) + len(resident) == blocks
    ring = [*streamed, streamed[0] + blocks]
    gaps = {after - before for before, after in pairwise(ring)}
    assert max(gaps) - min(gaps) <= 1


def test_both_experts_stay_where_there_is_room():
    plan = make_plan(a14b(40))
    assert (plan.streamed, len(plan.kept), plan.outsides) == (0, 40, 2)
    assert "all 40 blocks resident" in str(plan)


def test_one_expert_and_a_part_of_the_other_stay_on_24_gib():
    plan = make_plan(a14b(22.5))
    assert plan.streamed == 0
    assert 10 < len(plan.kept) < 20


def test_8_gib_hold_720p_with_little_pinned_memory():
    plan = make_plan(a14b(7.5, activation_gib=5.04, block=0.4))
    assert plan.streamed > 35
    assert plan.pinned_bytes == 256 * MIB
    assert plan.seconds == pytest.approx(16.0)
    assert str(plan).startswith(f"{plan.streamed} of 40 blocks streamed, peak 7.")
    rest = " of 7.5 GiB, RAM 0.2 GiB pinned, about "
    assert plan.describe(passes=1).endswith(f"{rest}16.0 s per step")
    assert plan.describe(passes=2).endswith(f"{rest}32.0 s per step")
    assert str(plan).endswith(f"{rest}16.0 s per forward pass")


def test_blocks_are_pinned_where_reading_would_take_longer_than_computing():
    plan = make_plan(a14b(8, block=0.01))
    assert 3.5 * GIB < plan.pinned_bytes <= 4 * GIB
    # Both experts get their share.
    assert abs(len(plan.pinned[0]) - len(plan.pinned[1])) <= 1


def test_little_ram_means_streaming_from_disk_and_says_what_it_costs():
    plan = make_plan(a14b(8, ram=12, block=0.01))
    assert not plan.fits_ram
    assert plan.seconds > make_plan(a14b(8, block=0.01)).seconds


def test_an_impossible_plan_says_what_is_missing():
    message = r"Got 4.00 GiB free, need 5.\d\d GiB.* order: close other .* smaller: about 69 % of"
    with pytest.raises(MemoryLimitError, match=message) as seen:
        make_plan(a14b(4, activation_gib=4.5))
    assert not seen.value.limits


def test_a_video_in_windows_is_not_helped_by_a_shorter_one():
    request = a14b(4, activation_gib=4.5)
    request = replace(request, work=replace(request.work, run_bytes=GIB))
    message = "make the context windows shorter or the video smaller: about 47 % of"
    with pytest.raises(MemoryLimitError, match=message):
        make_plan(request)


def test_too_few_swapped_blocks_say_how_many_would_do():
    fitting = make_plan(a14b(8)).streamed
    message = f"order: leave blocks_to_swap open, or make it {fitting} or more; close other"
    with pytest.raises(MemoryLimitError, match=message) as seen:
        make_plan(a14b(8, blocks_to_swap=10))
    assert seen.value.limits == ("blocks_to_swap",)
    assert make_plan(a14b(8, blocks_to_swap=fitting)).streamed == fitting
    # With the least of slots, one more stays.
    fewer = make_plan(a14b(8, blocks_to_swap=fitting - 1))
    assert (fewer.streamed, fewer.slots) == (fitting - 1, 2)


def test_too_small_a_budget_says_how_much_would_do():
    limits = {"vram_budget_bytes": 3 * GIB, "activation_gib": 3.5}
    message = r"Got 3.00 GiB allowed by the VRAM budget.*or make it 4\.4 GiB or more; close other"
    with pytest.raises(MemoryLimitError, match=message) as seen:
        make_plan(a14b(8, **limits))
    assert seen.value.limits == ("vram_budget_bytes",)
    assert make_plan(a14b(8, **{**limits, "vram_budget_bytes": int(4.4 * GIB)})).streamed == 40


def test_too_many_fetched_blocks_are_the_first_thing_to_change():
    with pytest.raises(MemoryLimitError, match="order: leave prefetch_blocks open; close") as seen:
        make_plan(a14b(8, prefetch_blocks=30))
    assert seen.value.limits == ("prefetch_blocks",)


@pytest.mark.parametrize(
    "limit",
    [{"blocks_to_swap": 41}, {"blocks_to_swap": -1}, {"prefetch_blocks": -1}],
)
def test_limits_out_of_range_are_refused(limit):
    with pytest.raises(SettingsError, match="cannot be used"):
        make_plan(a14b(20, **limit))


@pytest.mark.parametrize(
    ("pinned", "free", "expected"), [(None, 64, 2.0), (None, 8, 1.0), (6, 64, 3.0)]
)
def test_processes_of_one_computer_pin_no_more_than_one(pinned, free, expected):
    limits = Limits(pinned_ram_bytes=None if pinned is None else pinned * GIB, blocks_to_swap=3)
    assert limits.shared(2, free * GIB) == Limits(
        pinned_ram_bytes=int(expected * GIB), blocks_to_swap=3
    )
