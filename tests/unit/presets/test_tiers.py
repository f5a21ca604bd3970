"""Tiers of speed: their data."""

import pytest

from wan_model.attention import names
from wan_model.errors import SettingsError
from wan_model.presets import find_tier, tier_names, tiers
from wan_model.sampling.step_cache.cache import STEP_RULES


def test_each_is_faster_and_coarser_than_the_one_before():
    assert tier_names() == ["auto", "exact", "fast", "fastest"]
    assert find_tier("auto") is None
    exact, fast, fastest = tiers().values()
    assert (exact.eight_bit, exact.cache_threshold, exact.attention) == (False, None, ("auto",))
    assert fast.eight_bit
    assert fastest.eight_bit
    own = STEP_RULES["easycache"].threshold
    assert (fast.cache_threshold or own) < (fastest.cache_threshold or own)
    assert fastest.attention[-len(fast.attention) :] == fast.attention, "where nothing is sparse"


@pytest.mark.parametrize("tier", tiers().values(), ids=tier_names()[1:])
def test_its_attention_is_one_that_loaders_have(tier):
    assert set(tier.attention) <= {"auto", "auto_fast", "kitchen_sol", *names()}


def test_another_name_is_refused():
    with pytest.raises(SettingsError, match=r"Got 'ludicrous', need one of: auto, exact, fast"):
        find_tier("ludicrous")
