"""Attention to several prompts over time, against a mean over all of them for every token."""

from dataclasses import replace

import pytest
import torch

from tests.unit.dit.toy import FP32, FRAMES, TOKENS_PER_FRAME, make_dit, make_inputs, velocity
from wan_model.dit import tokens
from wan_model.dit.attention_layers import attend_to_text
from wan_model.dit.scheduled_text import ScheduledText, stretches
from wan_model.dit.text_guidance import GuidanceSettings, NegativeText

WEIGHTS = [[1.0, 0.0, 0.0], [0.25, 0.75, 0.0], [0.0, 0.5, 0.5]]


def everywhere(embedded, weights):
    """A `TextAttention`: every token attends to every prompt."""
    rows = torch.tensor(weights).repeat_interleave(TOKENS_PER_FRAME, 0)

    def attention(layer, text, attend):
        prompts = [attend_to_text(layer, e.expand(len(text), -1, -1), attend) for e in embedded]

        def attended(q, run):
            parts = torch.stack([prompt(q, run) for prompt in prompts], -1)
            return (parts * rows[run].view(1, -1, 1, 1, len(prompts))).sum(-1)

        return attended

    return attention


@pytest.mark.parametrize("run_tokens", [8192, 7])
@torch.no_grad()
def test_each_token_attends_to_its_frame_s_prompts(monkeypatch, run_tokens: int):
    monkeypatch.setattr(tokens, "RUN_TOKENS", run_tokens)
    dit = make_dit("t2v", FP32)
    inputs = make_inputs(dit, batch=2)
    embedded = dit.embed_text(torch.randn(3, 5, inputs.text.shape[-1]))
    assert len(WEIGHTS) == FRAMES
    scheduled = ScheduledText(embedded, stretches(WEIGHTS, TOKENS_PER_FRAME))
    got = velocity(dit, inputs, scheduled)
    expected = velocity(dit, inputs, everywhere(embedded, WEIGHTS))
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    assert (got - velocity(dit, inputs)).norm() > 1e-3 * got.norm()

    kept_away = {"embedded": embedded[:1], "alpha": torch.full((2,), 0.25)}
    guided = NegativeText(**kept_away, settings=GuidanceSettings(), attend_to_prompt=scheduled)
    expected = replace(guided, attend_to_prompt=everywhere(embedded, WEIGHTS))
    got = velocity(dit, inputs, guided)
    torch.testing.assert_close(got, velocity(dit, inputs, expected), atol=1e-5, rtol=1e-5)
    assert (got - velocity(dit, inputs, scheduled)).norm() > 1e-3 * got.norm()
    unscheduled = velocity(dit, inputs, replace(guided, attend_to_prompt=attend_to_text))
    assert (got - unscheduled).norm() > 1e-3 * got.norm()


@torch.no_grad()
def test_one_prompt_for_all_frames_changes_no_bit():
    dit = make_dit("t2v", FP32)
    inputs = make_inputs(dit)
    parts = stretches([[0.0, 1.0]] * FRAMES, TOKENS_PER_FRAME)
    (part,) = parts
    assert part.shares == ((1, 1.0),)
    embedded = dit.embed_text(torch.cat((inputs.text * 2, inputs.text)))
    assert torch.equal(velocity(dit, inputs, ScheduledText(embedded, parts)), velocity(dit, inputs))
