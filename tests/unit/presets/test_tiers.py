"""Tiers of speed: their data."""

import pytest

from wan_model.attention import names
from wan_model.errors import SettingsError
from wan_model.presets import find_tier, tier_names, tiers
from wan_model.sampling import StepCacheSettings


def test_each_is_faster_and_coarser_than_the_one_before():
    assert tier_names() == ["auto", "exact", "fast", "fastest"]
    assert find_tier("auto") is None
    exact, fast, fastest = tiers().values()
    assert (exact.eight_bit, exact.cache_threshold, exact.attention) == (False, None, ("auto",))
    assert fast.eight_bit
    assert fastest.eight_bit
    own, more = (
        StepCacheSettings(threshold=tier.cache_threshold or 0.0).step_reuse()
        for tier in (fast, fastest)
    )
    assert own is not None
    assert more is not None
    assert fastest.attention[-len(fast.attention) :] == fast.attention, "where nothing is sparse"
    measured = [tier.measured for tier in tiers().values() if tier.measured]
    assert len(measured) == 3
    assert measured == sorted(measured, key=lambda one: -one.psnr_db)
    assert measured == sorted(measured, key=lambda one: -one.passes)
    assert f"{measured[1].psnr_db:.0f} dB" in str(measured[1])


@pytest.mark.parametrize("tier", tiers().values(), ids=tier_names()[1:])
def test_its_attention_is_one_that_loaders_have(tier):
    assert set(tier.attention) <= {"auto", "auto_fast", "kitchen_sol", *names()}


def test_another_name_is_refused():
    with pytest.raises(SettingsError, match=r"Got 'ludicrous', need one of: auto, exact, fast"):
        find_tier("ludicrous")
