"""The Triton kernel that multiplies columns by their scales and adds a bias: one pass, in place.

Importing this needs Triton.
"""

import triton
import triton.language as tl
from torch import Tensor

ROWS, COLUMNS = 4, 1024
"""Of a program: scales and biases are read once for its rows."""


# Nothing is compiled for a number of rows, or for layers without a bias.
@triton.jit(do_not_specialize=["rows"])
def _scale(
    out, scale, bias, rows, width, biased,
    one: tl.constexpr, some: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * some + tl.arange(0, some)[:, None]
    column = tl.program_id(1) * block + tl.arange(0, block)[None, :]
    within = column < width
    inside = within & (row < rows)
    at = out + row * width + column
    v = tl.load(at, inside, 0.0).to(tl.float32)
    if one:
        v *= tl.load(scale)
    else:
        v *= tl.load(scale + column, within, 0.0)
    v += tl.load(bias + column, column < biased, 0.0).to(tl.float32)
    tl.store(at, v.to(out.dtype.element_ty), inside)


def scale_in_place(out: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """Returns out * scale + bias in the place of `out`, rounded once; on the current device.

    Args:
        out: (..., O), contiguous, any float dtype.
        scale: fp32, one number or O of them, contiguous.
        bias: (O,), contiguous, or None.
    """
    width = out.shape[-1]
    rows = out.numel() // width
    grid = (triton.cdiv(rows, ROWS), triton.cdiv(width, COLUMNS))
    given, biased = (out, 0) if bias is None else (bias, width)
    _scale[grid](
        out, scale, given, rows, width, biased, one=scale.numel() == 1, some=ROWS, block=COLUMNS
    )
    return out
