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
        ]
    )
    wanted = {"seconds": 8, "exchange": 3, "matmul": 2, "attention": 2, "other": 1}
    wanted |= {"exchange_alone": 2, "idle": 2}
    assert {name: found[name] for name in wanted} == pytest.approx(wanted)


def test_nothing_ran():
    assert summary([]) == {}
