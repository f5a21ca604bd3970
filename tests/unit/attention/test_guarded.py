"""Attention that breaks a model is replaced by sdpa; what sdpa cannot mend is left as it is."""

import pytest
import torch

from tests.unit.attention import fakes
from tests.unit.dit.toy import make_dit, make_inputs
from wan_model.attention import Constraints, FirstPasses, Guarded, guarded, try_again
from wan_model.attention.backend import Backend
from wan_model.attention.registry import BACKENDS, Selected
from wan_model.attention.sdpa import sdpa


class Broken:
    """An attention function that gives a broken number in some calls, counted from 0."""

    def __init__(self, *calls: int, value: float = float("nan")) -> None:
        self.broken, self.value = calls, value
        self.calls = 0

    def __call__(self, q, k, v, /):
        out = sdpa(q, k, v)
        if self.calls in self.broken:
            out = out.clone()
            out[0, -1, 0, 0] = self.value
        self.calls += 1
        return out


@pytest.fixture
def model():
    return make_dit()


def checked(model, said, latent=None):
    inputs = make_inputs(model)
    if latent is not None:
        inputs = inputs._replace(latent=latent)
    with torch.no_grad():
        return model.attend.check(lambda: model(*inputs), said.append)


def expected(model):
    with torch.no_grad():
        return make_dit()(*make_inputs(model))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("call", range(4))
def test_one_broken_number_is_enough(model, call, value):
    broken, said = Broken(call, value=value), []
    model.attend = Guarded("fast", broken)
    assert torch.equal(checked(model, said), expected(model))
    assert said == ["fast gave values that are not finite; sdpa is used instead."]
    assert broken.calls == 4, "Two blocks attend twice each."
    with torch.no_grad():
        assert torch.equal(model(*make_inputs(model)), expected(model))
    assert torch.equal(checked(model, said), expected(model))
    assert broken.calls == 4, "It is used again."
    assert len(said) == 1


def test_other_patches_have_it_tried_again(model):
    broken, said = Broken(0, 4), []
    model.attend = Guarded("fast", broken)
    for patches, calls, reports in (("a", 4, 1), ("a", 4, 1), ("b", 8, 2), ("c", 12, 2)):
        try_again(model.attend, patches)
        assert torch.equal(checked(model, said), expected(model))
        assert broken.calls == calls
        assert len(said) == reports


def test_what_is_finite_stays(model):
    fine, said = Broken(), []
    model.attend = Guarded("fast", fine)
    for passes in (1, 2):
        checked(model, said)
        assert fine.calls == 4 * passes
    assert not said


def test_a_later_check_still_sees(model):
    broken, said = Broken(4), []
    model.attend = Guarded("fast", broken)
    for _ in range(3):
        assert torch.equal(checked(model, said), expected(model))
    assert broken.calls == 8
    assert len(said) == 1


def test_what_sdpa_cannot_mend_is_left_and_said_once(model):
    fine, said = Broken(12), []
    model.attend = Guarded("fast", fine)
    broken_latent = make_inputs(model).latent.clone()
    broken_latent[0, 0, 0, 0, 0] = float("nan")
    for passes in (1, 2):
        assert not checked(model, said, broken_latent).isfinite().all()
        assert fine.calls == 4 * passes
    (line,) = said
    assert line.startswith("fast gave values that are not finite, and so does sdpa: ")
    assert checked(model, said).isfinite().all()
    assert fine.calls == 12, "It was not at fault."
    checked(model, said)
    assert said[1:] == ["fast gave values that are not finite; sdpa is used instead."]


def test_first_passes_of_every_run():
    first, runs = FirstPasses(), [torch.ones(3), torch.ones(3)]
    for run in (*runs, runs[0]):
        assert first.include(run, "prompted")
        assert first.include(run, "unprompted")
        assert not first.include(run, "prompted")
        assert not first.include(run, "unprompted")


def test_every_pass_of_an_unknown_run_is_first():
    first = FirstPasses()
    assert first.include(None, ())
    assert first.include(None, ())


def test_after_falling_back_there_is_nothing_more_to_say(model):
    said, passes = [], []
    model.attend = Guarded("fast", Broken(0))
    checked(model, said)
    model.attend.check(lambda: passes.append(0) or torch.tensor([torch.nan]), said.append)
    assert len(passes) == 1
    assert len(said) == 1


def test_only_low_precision_is_guarded():
    assert guarded(sdpa) is sdpa
    modules = {**fakes.sage_1(), "comfy_kitchen": fakes.kitchen()}
    modules["fa3_fwd_interface"] = fakes.flash()
    found = {}
    for backend in BACKENDS:
        if backend.unavailable_reason(fakes.platform(modules)) is None:
            function = backend.function(fakes.platform(modules))
            found[backend.name] = isinstance(guarded(Selected(backend, function, True)), Guarded)
    low = {"flash_attn_3_fp8", "sage", "kitchen_int8"}
    assert {name for name, is_guarded in found.items() if is_guarded} == low
    assert {"sdpa_efficient", "flash_attn_3"} <= set(found)


def test_cross_attention_is_not_what_is_guarded():
    anywhere = Constraints(platforms=frozenset({"other"}), low_precision=True)
    backend = Backend("nan", "NaN", lambda _: Broken(0), anywhere)
    attend = guarded(Selected(backend, Broken(0), by_name=True))
    assert isinstance(attend, Guarded)
    q, said = torch.randn(1, 1100, 1, 8).bfloat16(), []
    text = q[:, :512]
    assert torch.equal(
        attend.check(lambda: attend(q, text, text), said.append), sdpa(q, text, text)
    )
    assert not said
    assert torch.equal(attend.check(lambda: attend(q, q, q), said.append), sdpa(q, q, q))
    assert said == ["nan gave values that are not finite; sdpa is used instead."]
