"""What overlaps is told from when kernels ran."""

import pytest

from benchmarks.kernel_spans import Span, summary


def test_exchange_beside_computing():
    found = summary(
        [
            Span("ncclDevKernel_SendRecv", 1, 4),
            Span("nvjet_tst", 0, 2),
            Span("elementwise", 1, 2),
            Span("void flash::kernel", 6, 8),
            Span("sm90_xmma_fprop_implicit_gemm_bf16", 8, 9),
        ]
    )
    kinds = {"exchange": 3, "matmul": 2, "attention": 2, "convolution": 1, "other": 1}
    assert found["kinds"] == pytest.approx(kinds)
    assert (found["seconds"], found["exchange_alone"], found["idle"]) == pytest.approx((9, 2, 2))


def test_nothing_ran():
    assert summary([]) == {}
