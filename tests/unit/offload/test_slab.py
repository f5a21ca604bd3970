"""Layout of slabs."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from wan_model.offload.slab import ALIGNMENT_BYTES, SlabLayout

DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.int8])
SHAPES = st.lists(st.integers(1, 5), max_size=4)


@given(specs=st.lists(st.tuples(DTYPES, SHAPES), min_size=1, max_size=8))
def test_tensors_come_back_as_they_were(specs):
    tensors = {
        str(i): torch.randint(0, 100, shape).to(dtype) for i, (dtype, shape) in enumerate(specs)
    }
    layout = SlabLayout.of(tensors)
    views = layout.views(torch.zeros(layout.nbytes, dtype=torch.uint8))
    for view, tensor in zip(views, tensors.values(), strict=True):
        view.copy_(tensor)
    for view, tensor in zip(views, tensors.values(), strict=True):
        assert view.dtype == tensor.dtype
        assert view.shape == tensor.shape
        assert torch.equal(view.float(), tensor.float())


@given(specs=st.lists(st.tuples(DTYPES, SHAPES), min_size=1, max_size=8))
def test_tensors_are_aligned_and_do_not_overlap(specs):
    layout = SlabLayout.of(
        {str(i): torch.zeros(shape, dtype=dtype) for i, (dtype, shape) in enumerate(specs)}
    )
    end = 0
    for place in layout.places:
        assert place.offset % ALIGNMENT_BYTES == 0
        assert end <= place.offset < end + ALIGNMENT_BYTES
        end = place.offset + place.nbytes
    assert end <= layout.nbytes < end + ALIGNMENT_BYTES


def test_equal_blocks_have_equal_layouts():
    tensors = {"a": torch.zeros(3), "b": torch.zeros(2, 2, dtype=torch.int8)}
    assert SlabLayout.of(tensors) == SlabLayout.of({k: t + 1 for k, t in tensors.items()})
    assert SlabLayout.of(tensors) != SlabLayout.of({k: t.float() for k, t in tensors.items()})
