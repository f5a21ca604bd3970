"""What kernels run on and take, as data."""

import pytest
import torch

from tests.unit.attention import fakes
from wan_model.attention import Constraints
from wan_model.attention.sdpa import ANY_GPU, ANYWHERE

ON_CPU = frozenset({"cuda", "other"})


def tensor(length: int = 8, width: int = 64, dtype: torch.dtype = torch.bfloat16):
    return torch.empty(1, length, 2, width, dtype=dtype)


@pytest.mark.parametrize(
    ("constraints", "kind", "capability", "reason"),
    [
        (Constraints(), "cuda", (8, 0), None),
        (Constraints(), "cuda", (12, 0), None),
        (Constraints(), "cuda", (7, 5), f"needs compute capability 8.0 or newer, and {fakes.GPU} "),
        (Constraints(), "rocm", (11, 0), "needs an NVIDIA GPU"),
        (Constraints(), "other", (0, 0), "needs an NVIDIA GPU"),
        (Constraints(platforms=ANY_GPU), "rocm", (0, 0), None),
        (Constraints(platforms=ANY_GPU), "other", (0, 0), "needs an NVIDIA GPU or an AMD one"),
        (Constraints(below=(9, 0)), "cuda", (8, 9), None),
        (Constraints(below=(9, 0)), "cuda", (9, 0), "needs compute capability 8.0 and below 9.0, "),
        (ANYWHERE, "other", (0, 0), None),
    ],
)
def test_platforms(constraints, kind, capability, reason):
    found = constraints.misfit(fakes.platform(capability=capability, kind=kind))
    assert (found is None) == (reason is None)
    assert reason is None or found.startswith(reason)


@pytest.mark.parametrize(
    ("constraints", "q", "refusal"),
    [
        (Constraints(platforms=ON_CPU), tensor(), None),
        (Constraints(), tensor(), "Got tensors on cpu, need them on the GPU"),
        (
            Constraints(platforms=ON_CPU),
            tensor(dtype=torch.float32),
            "Got torch.float32, need torch.bfloat16 or torch.float16",
        ),
        (
            Constraints(platforms=ON_CPU),
            tensor(width=12),
            "Got heads of width 12, need 8 to 256 in steps of 8",
        ),
        (
            Constraints(platforms=ON_CPU, head_dims=range(1, 129)),
            tensor(width=256),
            "Got heads of width 256, need 1 to 128",
        ),
        (
            Constraints(platforms=ON_CPU, head_dims=(64, 128)),
            tensor(width=96),
            "Got heads of width 96, need 64 or 128",
        ),
    ],
)
def test_tensors(constraints, q, refusal):
    assert constraints.refusal(q) == refusal


@pytest.mark.parametrize(
    ("length", "source", "taken"),
    [
        (32760, 32760, True),
        (1024, 1024, True),
        (8192, 512, False),  # cross-attention of a run of tokens
        (512, 512, False),  # cross-attention of a last run that is as long as the text
        (1024, 2048, False),
    ],
)
def test_low_precision_is_for_many_video_tokens(length, source, taken):
    q, k = torch.empty(1, length, 1, 1), torch.empty(1, source, 1, 1)
    assert Constraints(low_precision=True).takes(q, k) is taken
    assert Constraints().takes(q, k)
