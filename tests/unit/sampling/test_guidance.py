"""Classifier-free guidance."""

import torch

from wan_model.sampling import guide


def test_guide_extrapolates_from_uncond() -> None:
    cond, uncond = torch.tensor([3.0, 1.0]), torch.tensor([1.0, 1.0])
    assert guide(cond, uncond, 3.5).tolist() == [8.0, 1.0]
    assert torch.equal(guide(cond, uncond, 1.0), cond)
    assert torch.equal(guide(cond, uncond, 0.0), uncond)


def test_guide_computes_in_fp32() -> None:
    cond, uncond = torch.full((1,), 1.0078125), torch.ones(1)
    guided = guide(cond.bfloat16(), uncond.bfloat16(), 4.3)
    assert guided.dtype == torch.float32
    torch.testing.assert_close(guided, uncond + 4.3 * (cond - uncond))
