"""Work done run by run equals work done at once, and so does the path that records gradients."""

import pytest
import torch

from tests.unit.dit.toy import BF16, FP32, first_frame_clean, make_dit, make_inputs, per_token
from wan_model.dit.tokens import IN_PLACE, Residual, runs

KINDS = ["t2v", "i2v", "ti2v"]


def toy_call(kind, precision=FP32):
    """Returns a model and inputs; TI2V has one timestep per token, two of them distinct."""
    model = make_dit(kind, precision)
    inputs = make_inputs(model, 2)
    if kind == "ti2v":
        inputs = inputs._replace(timestep=per_token(first_frame_clean(2)))
    return model, inputs


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("run_tokens", [1, 7, 35])
@torch.no_grad()
def test_many_runs_equal_one_run(kind, run_tokens, monkeypatch):
    model, inputs = toy_call(kind)
    expected = model(*inputs)
    monkeypatch.setattr("wan_model.dit.tokens.RUN_TOKENS", run_tokens)
    torch.testing.assert_close(model(*inputs), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_recording_gradients_does_not_change_the_result(kind, monkeypatch):
    monkeypatch.setattr("wan_model.dit.tokens.RUN_TOKENS", 7)
    model, inputs = toy_call(kind)
    model.requires_grad_(True)
    with_gradients = model(*inputs)
    with torch.no_grad():
        without = model(*inputs)
    with torch.inference_mode():
        inference = model(*inputs)
    assert with_gradients.requires_grad
    torch.testing.assert_close(with_gradients.detach(), without, rtol=0, atol=3e-6)
    assert torch.equal(inference, without)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad])
@pytest.mark.parametrize("kind", KINDS)
def test_inputs_are_not_modified(kind, mode):
    model, inputs = toy_call(kind)
    given = [tensor for tensor in inputs if tensor is not None]
    before = [tensor.clone() for tensor in given]
    with mode():
        model(*inputs)
    for tensor, copy in zip(given, before, strict=True):
        assert torch.equal(tensor, copy)


def test_runs_cover_every_token_once(monkeypatch):
    monkeypatch.setattr("wan_model.dit.tokens.RUN_TOKENS", 4)
    assert list(runs(10)) == [slice(0, 4), slice(4, 8), slice(8, 10)]


def test_tokens_are_updated_in_place_unless_gradients_are_recorded(monkeypatch):
    monkeypatch.setattr("wan_model.dit.tokens.RUN_TOKENS", 2)
    x = torch.ones(1, 5, 3)
    recorded = Residual(recorded=True)
    updated = recorded.update(x, lambda part, _: recorded.add(part, 2 * part))
    assert updated is not x
    assert torch.equal(x, torch.ones(1, 5, 3))
    assert IN_PLACE.update(x, lambda part, _: IN_PLACE.add(part, 2 * part)) is x
    assert torch.equal(x, updated)
    assert torch.equal(x, torch.full((1, 5, 3), 3.0))


@pytest.mark.parametrize("recorded", [False, True])
def test_the_residual_keeps_its_dtype(recorded):
    x = torch.ones(1, 5, 3, dtype=torch.bfloat16)
    assert Residual(recorded).add(x, x.float()).dtype == torch.bfloat16


@torch.no_grad()
def test_many_runs_equal_one_run_in_bf16(monkeypatch):
    model, inputs = toy_call("i2v", BF16)
    expected = model(*inputs)
    monkeypatch.setattr("wan_model.dit.tokens.RUN_TOKENS", 5)
    got = model(*inputs)
    assert ((got - expected).square().mean() / expected.square().mean()).sqrt() < 5e-3
