import pytest

from benchmarks.fit import check_fit
from wan_model.config import DiTConfig
from wan_model.errors import MemoryLimitError

GIB = 2**30
A14B = DiTConfig(
    dim=5120, ffn_dim=13824, num_heads=40, num_layers=40, in_channels=16, out_channels=16
)
VIDEO = 3 * GIB


@pytest.mark.parametrize(("weight_format", "gib"), [("bf16", 31), ("fp8", 18)])
def test_what_fits_is_not_refused(weight_format: str, gib: int):
    check_fit(A14B, weight_format, VIDEO, gib * GIB)
    with pytest.raises(MemoryLimitError):
        check_fit(A14B, weight_format, VIDEO, (gib - 2) * GIB)


def test_the_message_says_what_fits():
    with pytest.raises(MemoryLimitError) as refused:
        check_fit(A14B, "bf16", VIDEO, 23 * GIB)

    assert str(refused.value) == (
        "The model does not fit into the GPU's memory. Got 23.0 GiB, need 27.0 for weights and 3.0 "
        "for the video. Use --layers 29 to measure 29 of 40 blocks or --format fp8."
    )


def test_all_contestants_are_there_at_once_and_a_peer_needs_more_room_than_ours():
    with pytest.raises(MemoryLimitError, match=r"2 models do not .* each\. Use --layers 24 "):
        check_fit(A14B, "bf16", VIDEO, 46 * GIB, contestants=2)


def test_nothing_fits_beside_too_large_a_video():
    with pytest.raises(MemoryLimitError, match="Use a smaller video"):
        check_fit(A14B, "fp8", 9 * GIB, 8 * GIB)
