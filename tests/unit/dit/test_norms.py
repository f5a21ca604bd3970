"""Norms: computed in fp32, over the whole hidden width."""

import pytest
import torch

from tests.unit.dit.toy import make_dit
from wan_model.dit import Block
from wan_model.dit.modulation import Modulation, modulate
from wan_model.dit.norms import AffineLayerNorm, LayerNorm, RMSNorm

EPS = 1e-6


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_queries_and_keys_are_normed_before_the_split_into_heads():
    # Doubling one head changes the norm of the others.
    model = make_dit(num_heads=4)
    block = model.get_submodule("blocks.0")
    assert isinstance(block, Block)
    for attention in (block.self_attn, block.cross_attn):
        for norm in (attention.norm_q, attention.norm_k):
            assert norm.weight.shape == (48,)
            x = random(1, 1, 48).float()
            louder = x.clone()
            louder[..., :12] *= 2
            heads, changed = attention.heads(norm(x)), attention.heads(norm(louder))
            assert not torch.allclose(heads[..., 1:, :], changed[..., 1:, :], rtol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rms_norm(dtype):
    norm = RMSNorm(48, EPS)
    norm.weight.data = (random(48, seed=1) + 2).to(dtype)
    x = (3 * random(2, 5, 48)).to(dtype)
    exact = x.double() / (x.double().square().mean(-1, keepdim=True) + EPS).sqrt()
    got = norm(x.float())
    torch.testing.assert_close(got.double(), exact * norm.weight.double(), rtol=1e-6, atol=1e-6)
    assert torch.equal(norm(x), got.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_affine_layer_norm(dtype):
    norm = AffineLayerNorm(48, EPS)
    norm.weight.data, norm.bias.data = (random(2, 48, seed=1) + 2).to(dtype)
    x = (3 * random(2, 5, 48) + 1).to(dtype)
    centred = x.double() - x.double().mean(-1, keepdim=True)
    exact = centred / (centred.square().mean(-1, keepdim=True) + EPS).sqrt()
    got = norm(x)
    assert got.dtype == torch.float32
    exact = exact * norm.weight.double() + norm.bias.double()
    torch.testing.assert_close(got.double(), exact, rtol=1e-6, atol=1e-6)


def test_a_modulated_norm_has_no_weights_of_its_own():
    x, shift, scale = random(3, 2, 4, 48)
    centred = x - x.mean(-1, keepdim=True)
    exact = centred / (centred.square().mean(-1, keepdim=True) + EPS).sqrt() * (1 + scale) + shift
    rows = torch.stack((shift, scale), dim=-2).flatten(0, 1).float()
    norm = LayerNorm(EPS)
    assert not norm.state_dict()
    got = modulate(norm(x.float()), Modulation(rows, torch.arange(8).view(2, 4)))
    torch.testing.assert_close(got.double(), exact, rtol=1e-5, atol=1e-5)
