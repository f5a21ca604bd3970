"""A layer owns its attention, so one with weights of its own belongs to the block."""

import pytest
import torch
from torch import Tensor, nn

from tests.unit.dit.toy import make_dit, make_inputs
from tests.unit.offload.fakes import LazyDevice, forward, plan_for
from wan_model.attention import AttentionFn
from wan_model.dit import Block, WanDiT
from wan_model.offload import HostModel, OffloadEngine


class SparseLinear(nn.Module):
    """Attention with a projection, as sparse-linear attention has one."""

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.proj_l = nn.Linear(head_dim, head_dim).requires_grad_(False)

    def forward(self, attend: AttentionFn, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Returns attention with what the projection makes of the queries."""
        return attend(q, k, v) + self.proj_l(q)


@pytest.fixture
def model() -> WanDiT:
    model = make_dit(num_layers=3)
    generator = torch.Generator().manual_seed(3)
    for block in model.blocks:
        assert isinstance(block, Block)
        attention = block.self_attn.attention = SparseLinear(block.self_attn.head_dim)
        for parameter in attention.parameters():
            parameter.normal_(generator=generator)
    return model


def test_attention_with_weights_is_named_within_its_block(model: WanDiT):
    assert "blocks.1.self_attn.attention.proj_l.weight" in model.state_dict()
    assert not any(".attention." in name for name in make_dit().state_dict())


def test_attention_with_weights_streams_with_its_block(model: WanDiT):
    inputs = make_inputs(model)
    expected = model(*inputs)
    assert not torch.allclose(expected, make_dit(num_layers=3)(*inputs), atol=1e-2)
    host, device = HostModel(model, model.blocks), LazyDevice()
    engine = OffloadEngine([host], plan_for(host, blocks_to_swap=3), device)
    assert torch.equal(forward(engine, device, model, inputs), expected)
