import pytest
import torch

from benchmarks.fit import check_fit, weight_bytes
from wan_model.attention import resolve
from wan_model.config import DiTConfig, Precision
from wan_model.errors import MemoryLimitError

from .conftest import REPOSITORY, import_script

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


def test_the_page_on_speed_says_what_its_command_takes():
    forward, gpu = import_script("forward"), torch.device("cuda")
    precision = Precision(compute_dtype=torch.bfloat16)
    task = forward.Task("a14b", A14B, 8, precision, "fp8", gpu)
    video = task.estimate_bytes("832x480x81", resolve("sdpa"), "fused") / GIB
    inside, outside = (part / GIB for part in weight_bytes(A14B, "fp8"))
    weights, slice_of_it = inside + outside, inside / 4 + outside
    page = " ".join((REPOSITORY / "docs" / "speed.md").read_text("utf-8").split())
    for said in (
        "forward.py a14b 832x480x81 --format fp8 |",
        f"{weights + video:.1f} GiB of free VRAM, {weights:.1f} for the weights and {video:.1f}",
        f"a quarter of the blocks, which takes {slice_of_it + video:.1f} GiB",
    ):
        assert said in page
