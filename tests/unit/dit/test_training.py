"""Gradients: the model can be trained, and they are right."""

import pytest
import torch

from tests.unit.dit.toy import BF16, FP32, first_frame_clean, make_dit, make_inputs


def loss_of(model, inputs):
    """Returns a number that every value of the velocity changes."""
    velocity = model(*inputs)
    target = torch.randn(velocity.shape, generator=torch.Generator().manual_seed(1))
    return (velocity - target).square().mean()


@pytest.mark.parametrize("precision", [FP32, BF16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["t2v", "i2v", "ti2v"])
def test_every_parameter_gets_a_gradient(kind, precision):
    model = make_dit(kind, precision).requires_grad_(True)
    inputs = make_inputs(model, 2)
    if kind == "ti2v":
        inputs = inputs._replace(timestep=first_frame_clean(2))
    loss_of(model, inputs).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


def test_the_latent_and_the_text_get_gradients():
    model = make_dit("i2v")
    inputs = make_inputs(model)
    leaves = [inputs.latent, inputs.text, inputs.cond]
    for leaf in leaves:
        leaf.requires_grad_(True)
    loss_of(model, inputs).backward()
    for leaf in leaves:
        assert leaf.grad is not None
        assert leaf.grad.abs().max() > 0


def test_gradients_predict_how_the_loss_changes():
    model = make_dit("i2v").requires_grad_(True)
    inputs = make_inputs(model, 2)
    loss_of(model, inputs).backward()
    generator = torch.Generator().manual_seed(2)
    directions = [torch.randn(p.shape, generator=generator) for p in model.parameters()]
    predicted = sum(
        (direction * p.grad).sum().item()
        for direction, p in zip(directions, model.parameters(), strict=True)
        if p.grad is not None
    )
    losses = []
    step = 1e-4
    for sign in (1, -2):
        with torch.no_grad():
            for direction, p in zip(directions, model.parameters(), strict=True):
                p += sign * step * direction
            losses.append(loss_of(model, inputs).double().item())
    measured = (losses[0] - losses[1]) / (2 * step)
    assert measured == pytest.approx(predicted, rel=1e-2)


def test_parameters_are_frozen_unless_training_is_asked_for():
    assert not any(parameter.requires_grad for parameter in make_dit().parameters())


def test_a_frozen_model_records_no_gradients():
    model = make_dit("t2v")
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    inputs = make_inputs(model, 1)
    velocity = model(*inputs)
    assert torch.is_grad_enabled()
    assert not velocity.requires_grad
    with torch.no_grad():
        assert torch.equal(velocity, model(*inputs))
