"""One model against two experts: the arithmetic, and the whole comparison at micro size."""

import json
from dataclasses import asdict

import pytest
import torch

from tests.unit.train_tiny.micro import CPU, micro_recipe
from tools.tiny_score import Rates
from tools.train_tiny.dit import sample_sigmas
from tools.train_tiny.experts import (
    ARRANGEMENTS,
    Arrangement,
    Outcome,
    compare_experts,
    expected_loss,
    markdown,
    training_levels,
)
from tools.train_tiny.experts_plot import plot_experts
from tools.train_tiny.files import TrainingFolder
from tools.train_tiny.scenes import score_prompts

SHIFT = 5.0


def test_levels_are_spread_as_training_draws_them():
    drawn = sample_sigmas(24, (0.0, 1.0), SHIFT, torch.Generator().manual_seed(0)).sort().values
    levels = training_levels(24, SHIFT)
    edges = torch.cat((torch.zeros(1), (drawn[1:] + drawn[:-1]) / 2, torch.ones(1)))
    assert ((levels > edges[:-1]) & (levels < edges[1:])).sum() >= 12
    assert (levels.diff() > 0).all()
    many = sample_sigmas(10_000, (0.0, 1.0), SHIFT, torch.Generator().manual_seed(0))
    assert float(levels.mean()) == pytest.approx(float(many.mean()), abs=2e-3)


@pytest.mark.parametrize("boundary", [0.5, 0.875, 0.97])
def test_the_expected_loss_takes_each_side_from_its_expert(boundary):
    many = sample_sigmas(100_000, (0.0, 1.0), SHIFT, torch.Generator().manual_seed(0))
    share_low = float((many < boundary).float().mean())
    zeros, ones = torch.zeros(24), torch.ones(24)
    arrangement = Arrangement("", "high", "low", boundary)
    assert expected_loss(zeros, ones, arrangement, SHIFT) == pytest.approx(share_low, abs=1e-3)
    assert expected_loss(ones, zeros, arrangement, SHIFT) == pytest.approx(1 - share_low, abs=1e-3)


def test_the_expected_loss_of_a_curve_does_not_depend_on_the_boundary():
    curve = torch.linspace(1, 2, 24)
    losses = [expected_loss(curve, curve, arrangement, SHIFT) for arrangement in ARRANGEMENTS]
    assert losses == pytest.approx([1.5] * len(ARRANGEMENTS))


def test_the_comparison_is_written(trained):
    outcomes = compare_experts(
        micro_recipe(), trained, device=CPU, steps=2, levels=3, prompts=score_prompts()[:2]
    )
    assert [outcome.arrangement for outcome in outcomes] == list(ARRANGEMENTS)
    assert all(outcome.loss > 0 and outcome.rates.videos == 2 for outcome in outcomes)
    result = json.loads((trained.path / "experts.json").read_text())
    assert list(result["losses"]) == ["t2v_single", "t2v_high", "t2v_low"]
    assert all(len(values) == 3 for values in result["losses"].values())
    single = result["losses"]["t2v_single"]
    assert result["outcomes"][0]["loss"] == pytest.approx(sum(single) / 3)
    assert (trained.path / "experts.md").read_text() == markdown(outcomes)


def test_the_comparison_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    sigmas, curve = training_levels(4, SHIFT).tolist(), [0.5, 0.4, 0.3, 0.2]
    rates = Rates(56, 1.0, 0.9, 0.8, 1.0, 0.7)
    result = {
        "sigmas": sigmas,
        "losses": dict.fromkeys(("t2v_single", "t2v_high", "t2v_low"), curve),
        "outcomes": [asdict(Outcome(arrangement, 0.3, rates)) for arrangement in ARRANGEMENTS],
    }
    (tmp_path / "experts.json").write_text(json.dumps(result))
    plot_experts(TrainingFolder(tmp_path))
    assert (tmp_path / "experts.png").read_bytes().startswith(b"\x89PNG")
