"""Normalized attention guidance against its formula in fp64."""

import pytest
import torch

from tests.unit.dit.toy import FP32, make_dit, make_inputs, velocity
from wan_model.dit.text_guidance import (
    TOLERANCE,
    GuidanceSettings,
    NegativeText,
    fastest_guide,
    guide,
    trial_error,
)
from wan_model.errors import SettingsError

CPU = torch.device("cpu")


def formula(positive, negative, scale, alpha, tau):
    """As the authors' code computes it."""
    moved = positive * scale - negative * (scale - 1)
    norms = [part.abs().sum(-1, keepdim=True) for part in (positive, moved)]
    growth = norms[1] / norms[0]
    moved = torch.where(growth > tau, moved * tau / growth, moved)
    return moved * alpha + positive * (1 - alpha)


@pytest.mark.parametrize("settings", [GuidanceSettings(), GuidanceSettings(2.0, 1.0, 1.2)])
def test_formula(settings):
    p, n = torch.randn(2, 2, 1500, 24, dtype=torch.float64)
    n[:, ::2] = p[:, ::2] * 0.9  # so that some tokens stay below the limit
    alpha = torch.tensor([settings.alpha, 0.0])
    got = guide(p.float(), n.float(), alpha, settings)
    expected = formula(p[:1], n[:1], settings.scale, settings.alpha, settings.tau)
    torch.testing.assert_close(got[:1].double(), expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(got[1], p[1].float())


@torch.no_grad()
def test_a_prompt_against_itself_is_the_prompt():
    dit = make_dit("t2v", FP32)
    inputs = make_inputs(dit, batch=2)
    settings = GuidanceSettings()
    alpha = torch.full((2,), settings.alpha)
    same = NegativeText(dit.embed_text(inputs.text), alpha, settings)
    other = NegativeText(dit.embed_text(inputs.text[:1] * 2), alpha, settings)
    plain = velocity(dit, inputs)
    torch.testing.assert_close(velocity(dit, inputs, same), plain, atol=1e-5, rtol=1e-5)
    assert (velocity(dit, inputs, other) - plain).norm() > 1e-3 * plain.norm()


@pytest.mark.parametrize("name", ["scale", "alpha", "tau"])
def test_settings_out_of_range(name):
    with pytest.raises(SettingsError, match=f"^{name} of the attention guidance"):
        GuidanceSettings(**{name: -1.0})


def test_kernel_interpreted():
    pytest.importorskip("triton")
    if torch.cuda.is_available():
        pytest.skip("Not interpreted on a GPU.")
    from wan_model.dit.text_guidance_kernel import guide as kernel

    assert trial_error(kernel, CPU) < TOLERANCE
    assert trial_error(lambda p, *_: p, CPU) > TOLERANCE


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="No GPU.")
def test_kernel_on_a_gpu():
    assert fastest_guide(torch.device("cuda")) is not guide


def test_no_kernel_without_a_gpu():
    assert fastest_guide(CPU) is guide
