"""Typed numbers, presets, distilled models and official values, in this order."""

import json
import math
from pathlib import Path

import pytest
import torch

from wan_model.config import OFFICIAL
from wan_model.presets import Distilled, Models, Values, choose, find_preset, presets, recognise
from wan_model.sampling import count_high_noise_steps, make_sigmas


def distilled(name: str = "wan_lightx2v_4steps.safetensors") -> Distilled:
    found = recognise(name, "lora")
    assert found is not None
    return found


LIGHT = [distilled()]


@pytest.mark.parametrize("kind", ["t2v", "i2v", "ti2v"])
def test_without_anything_all_is_official(kind):
    low = None if kind == "ti2v" else []
    chosen, said = choose(Models(kind=kind, low=low), Values())
    known = OFFICIAL[kind]
    assert (chosen.steps, chosen.shift, chosen.boundary) == (
        known.steps,
        known.shift,
        known.boundary or 0,
    )
    assert (chosen.cfg_high, chosen.cfg_low) == (known.cfg_high, known.cfg_low)
    assert (chosen.sampler, chosen.scheduler, chosen.start_steps) == ("unipc", "wan", 0)
    assert said == []
    again, _ = choose(Models(kind=kind, low=low), Values(), find_preset("official"))
    assert again == chosen


def test_distilled_experts_bring_their_settings_and_typed_ones_override_them():
    both = Models(kind="t2v", high=LIGHT, low=LIGHT)
    chosen, said = choose(both, Values())
    assert (chosen.steps, chosen.shift, chosen.cfg_high, chosen.cfg_low) == (4, 5, 1, 1)
    assert (chosen.sampler, chosen.boundary) == ("euler", 0.875)
    assert said[0] == "wan_lightx2v_4steps.safetensors is LightX2V, by its name."

    typed = Values(steps=6, shift=8, cfg_high=2, sampler="dpm++")
    chosen, _ = choose(both, typed)
    assert (chosen.steps, chosen.shift, chosen.cfg_high, chosen.cfg_low) == (6, 8, 2, 1)
    assert (chosen.sampler, chosen.scheduler) == ("dpm++", "wan")


def test_several_loras_and_experts_take_the_most_steps():
    more = distilled("wan_lightx2v_8steps.safetensors")
    chosen, said = choose(Models(kind="t2v", high=[*LIGHT, more], low=LIGHT), Values())
    assert chosen.steps == 8
    assert any("wants the most" in line for line in said)
    chosen, _ = choose(Models(kind="t2v", high=LIGHT, low=[more]), Values())
    assert chosen.steps == 8


def test_the_expert_that_is_not_distilled_stays_guided():
    chosen, said = choose(Models(kind="t2v", high=[], low=LIGHT), Values())
    assert (chosen.cfg_high, chosen.cfg_low, chosen.steps, chosen.sampler) == (4, 1, 10, "euler")
    assert said[-1].startswith("Only the low-noise expert is.")
    chosen, said = choose(Models(kind="i2v", high=LIGHT, low=[]), Values())
    assert (chosen.cfg_high, chosen.cfg_low, chosen.start_steps) == (1, 3.5, 0)
    assert said[-1].startswith("Only the high-noise expert is.")


def test_three_phases_have_the_steps_of_the_recipe():
    """1 + 4 + 3 of I2V and 1 + 3 + 4 of T2V, as Wan2GP's thresholds 985 | 965 and 800 give."""
    for kind, steps, above in (("i2v", (1, 4, 3), 985), ("t2v", (1, 3, 4), 965)):
        models = Models(kind=kind, high=LIGHT, low=LIGHT, has_start=True)
        chosen, _ = choose(models, Values(), find_preset("8 steps, three phases"))
        sigmas = make_sigmas("euler", chosen.steps, chosen.shift)
        high = count_high_noise_steps(sigmas, chosen.boundary)
        assert (chosen.start_steps, high - chosen.start_steps, chosen.steps - high) == steps
        levels = 1000 * sigmas
        assert (int((levels > above).sum()), int((levels > 800).sum())) == (steps[0], high)
        assert (chosen.cfg_start, chosen.cfg_high, chosen.cfg_low) == (3.5, 1, 1)


@pytest.mark.parametrize(("kind", "largest"), [("i2v", 200), ("t2v", 80)])
@pytest.mark.parametrize("form", ["SDE", "ODE"])
def test_rcm_levels_are_those_of_its_angles(kind, largest, form):
    preset = find_preset(f"TurboDiffusion / rCM, {form}")
    chosen, said = choose(Models(kind=kind, high=LIGHT, low=LIGHT), Values(), preset)
    angles = [math.atan(largest), 1.5, 1.4, 1.0]
    wanted = [math.sin(t) / (math.cos(t) + math.sin(t)) for t in angles]
    assert chosen.levels == pytest.approx([*wanted, 0], abs=1e-12)
    assert (chosen.steps, chosen.boundary) == (4, 0.9)
    assert chosen.sampler == {"SDE": "lcm", "ODE": "euler"}[form]
    assert count_high_noise_steps(torch.tensor(chosen.levels), chosen.boundary) == 2

    assert chosen.levels is not None
    fewer, _ = choose(Models(kind=kind, high=LIGHT, low=LIGHT), Values(steps=2), preset)
    assert fewer.levels == (*chosen.levels[:2], 0)
    for typed in (Values(steps=6), Values(shift=8), Values(scheduler="simple")):
        other, said = choose(Models(kind=kind, high=LIGHT, low=LIGHT), typed, preset)
        assert (other.levels, other.steps) == (None, typed.steps or 4)
        assert "are not used" in said[-1]
    assert choose(Models(kind=kind, high=LIGHT, low=LIGHT), Values(), preset, 0.5)[0].levels is None


def test_a_preset_that_does_not_fit_is_used_and_said():
    light = Models(kind="t2v", high=LIGHT, low=LIGHT)
    chosen, said = choose(light, Values(), find_preset("official"))
    assert (chosen.steps, chosen.cfg_high) == (40, 4)
    assert "burns colours" in said[-1]
    plain = Models(kind="t2v", low=[])
    chosen, said = choose(plain, Values(cfg_low=2), find_preset("4 steps"))
    assert (chosen.steps, chosen.cfg_high, chosen.cfg_low) == (4, 1, 2)
    assert said[0].endswith("Typed instead of its own: cfg_low.")
    assert "not known to be made for few steps" in said[-1]
    _, said = choose(Models(kind="t2v", low=LIGHT), Values(), find_preset("hybrid"))
    assert len(said) == 1


def test_a_model_for_the_first_steps_gets_one_unless_a_number_is_typed():
    models = Models(kind="t2v", high=LIGHT, low=LIGHT, has_start=True)
    assert choose(models, Values())[0].start_steps == 1
    assert choose(models, Values(start_steps=2))[0].start_steps == 2
    assert choose(models, Values(cfg_start=2))[0].cfg_start == 2


def test_files_name_their_sources():
    folder = Path(__file__).parents[3] / "wan_model" / "presets"
    files = sorted((folder / "files").glob("*.json"))
    assert [path.stem for path in files] == sorted(presets())
    rows = [json.loads(path.read_text()) for path in files]
    rows += json.loads((folder / "distilled.json").read_text())
    assert all(row["sources"] for row in rows)


def test_a_preset_for_two_experts_has_no_first_steps_with_one_model():
    chosen, said = choose(Models(kind="ti2v"), Values(), find_preset(presets()["hybrid"].name))
    assert chosen.start_steps == 0
    assert any("does not fit" in line for line in said)
