"""Muon, and which weights it trains."""

import torch

from tests.unit.train_tiny.micro import CPU, micro_recipe
from tools.train_tiny.dit import build_dit
from tools.train_tiny.optimiser import Muon, build_optimisers, is_inner_matrix, orthogonalise
from tools.train_tiny.vae import build_vae


def test_orthogonal_steps_keep_the_singular_vectors():
    rng = torch.Generator().manual_seed(0)
    for shape in ((3, 12, 40), (2, 40, 12)):
        matrices = torch.randn(shape, generator=rng)
        result = orthogonalise(matrices)
        values = torch.linalg.svdvals(result)
        assert values.min() > 0.6
        assert values.max() < 1.3
        u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
        inner = u.mT @ result @ vh.mT
        assert (inner - torch.diag_embed(inner.diagonal(dim1=1, dim2=2))).abs().max() < 1e-3


def test_steps_are_as_large_as_those_of_adamw():
    weight = torch.zeros(64, 16, 3, 3, 3)
    weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)) * 1e-4
    Muon([weight], lr=0.01, weight_decay=0.0).step()
    assert 0.1 < float(weight.square().mean().sqrt()) / 0.01 < 0.3
    assert (weight * weight.grad).sum() < 0


def test_data_tokens_and_vectors_are_left_to_adamw():
    dit = build_dit(micro_recipe().dit_config("i2v_high"), CPU, torch.float32)
    inner = {name for name, p in dit.named_parameters() if is_inner_matrix(name, p)}
    assert {"blocks.0.self_attn.q.weight", "time_projection.1.weight"} <= inner
    assert all(name.endswith("weight") and "norm" not in name for name in inner)
    assert not inner & {"patch_embedding.weight", "head.head.weight"}
    vae = build_vae(micro_recipe().vaes["vae21"].model, CPU, torch.float32)
    inner = {name for name, p in vae.named_parameters() if is_inner_matrix(name, p)}
    assert "decoder.middle.0.residual.2.weight" in inner
    assert not any("gamma" in name or "head" in name for name in inner)


def test_every_weight_has_one_optimiser():
    dit = build_dit(micro_recipe().dit_config("t2v"), CPU, torch.float32)
    names, weights = zip(*dit.named_parameters(), strict=True)
    optimisation = micro_recipe().dits["t2v"].optimisation
    optimisers = build_optimisers(list(names), list(weights), optimisation)
    trained = [p for o in optimisers for group in o.param_groups for p in group["params"]]
    assert sorted(map(id, trained)) == sorted(map(id, weights))
