"""One timestep per sample, per latent frame or per token: same result, little work."""

import pytest
import torch

from tests.unit.dit.toy import (
    FRAMES,
    TOKENS,
    TOKENS_PER_FRAME,
    first_frame_clean,
    make_dit,
    make_inputs,
    per_token,
)
from wan_model.dit.timesteps import TimestepRows, distinct_timesteps, sinusoid


def embedded_rows(model, inputs) -> int:
    """Returns how many rows go through the time embedding in one forward pass."""
    rows = []
    handle = model.time_embedding.register_forward_pre_hook(
        lambda _, args: rows.append(len(args[0]))
    )
    with torch.no_grad():
        model(*inputs)
    handle.remove()
    assert len(rows) == 1
    return rows[0]


@pytest.mark.parametrize("kind", ["t2v", "i2v", "ti2v"])
@pytest.mark.parametrize("batch", [1, 2])
@torch.no_grad()
def test_all_forms_of_one_timestep_agree(kind, batch):
    model = make_dit(kind)
    inputs = make_inputs(model, batch)
    per_frame = inputs.timestep.unsqueeze(1).repeat(1, FRAMES)
    expected = model(*inputs)
    for timestep in (per_frame, per_token(per_frame)):
        got = model(*inputs._replace(timestep=timestep))
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


@torch.no_grad()
def test_a_scalar_timestep_counts_for_the_whole_batch():
    model = make_dit()
    inputs = make_inputs(model, 2)
    scalar = model(*inputs._replace(timestep=torch.tensor(500.0)))
    assert torch.equal(scalar, model(*inputs._replace(timestep=torch.tensor([500.0, 500.0]))))


@torch.no_grad()
def test_per_frame_equals_per_token():
    model = make_dit("ti2v")
    inputs = make_inputs(model, 2)
    per_frame = first_frame_clean(2)
    got = model(*inputs._replace(timestep=per_frame))
    assert torch.equal(got, model(*inputs._replace(timestep=per_token(per_frame))))
    assert not torch.allclose(got, model(*inputs), atol=1e-2)


@torch.no_grad()
def test_a_token_is_modulated_by_its_own_timestep():
    values, index = distinct_timesteps(torch.tensor([[0.0, 9.0, 5.0]]), 6)
    rows = TimestepRows(values.view(-1, 1, 1) * torch.arange(1.0, 7).view(1, 6, 1), index)
    branches = rows.modulations(torch.full((1, 6, 1), 0.5))
    assert len(branches) == 2
    for first, branch in zip((1, 4), branches, strict=True):
        part = branch.at(slice(1, 5))
        for factor, vector in enumerate((part.shift, part.scale, part.gate), first):
            assert vector.flatten().tolist() == [factor * t + 0.5 for t in (0, 9, 9, 5)]


@pytest.mark.parametrize("batch", [1, 2])
def test_only_distinct_timesteps_are_embedded(batch):
    model = make_dit("ti2v")
    inputs = make_inputs(model, batch)
    per_frame = first_frame_clean(batch)
    assert embedded_rows(model, inputs) == batch
    assert embedded_rows(model, inputs._replace(timestep=per_frame)) == batch + 1
    assert embedded_rows(model, inputs._replace(timestep=per_token(per_frame))) == batch + 1
    everywhere = torch.full((batch, TOKENS), 250.0)
    assert embedded_rows(model, inputs._replace(timestep=everywhere)) == 1


def test_every_token_can_have_its_own_timestep():
    model = make_dit("ti2v")
    timestep = torch.arange(TOKENS, dtype=torch.float32).unsqueeze(0)
    assert embedded_rows(model, make_inputs(model)._replace(timestep=timestep)) == TOKENS


def test_sinusoid_puts_cosines_before_sines():
    got = sinusoid(torch.tensor([0.0, 2.0]), 4)
    expected = torch.tensor([[1.0, 1, 0, 0], [2.0, 0.02, 2.0, 0.02]])
    expected[1] = torch.cat((expected[1, :2].cos(), expected[1, 2:].sin()))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-7)


def test_sinusoid_tells_neighbouring_timesteps_apart_in_float32():
    # Angles in float32 lose 3e-5 at t = 999; float64 keeps the last bit of the result.
    timestep = torch.tensor([999.0])
    frequencies = 10000.0 ** (-torch.arange(8, dtype=torch.float64) / 8)
    exact = torch.cat(((999 * frequencies).cos(), (999 * frequencies).sin())).float()
    assert torch.equal(sinusoid(timestep, 16)[0], exact)


def test_frames_repeat_their_index_for_every_token():
    values, index = distinct_timesteps(first_frame_clean(1), TOKENS)
    assert values.tolist() == [0, 637]
    assert index[0].tolist() == [0] * TOKENS_PER_FRAME + [1] * (TOKENS - TOKENS_PER_FRAME)
