"""What Triton would compile for launches of its kernels, on a computer that cannot launch them."""

from functools import partial
from typing import Any

from torch import Tensor


class Launches:
    """Takes a kernel's place, and keeps what Triton would compile for each launch."""

    def __init__(self, kernel: Any, compiled: set[Any]) -> None:
        self.kernel, self.compiled = kernel, compiled

    def __getitem__(self, grid: tuple[int, ...]):
        return partial(self.warmup, grid=grid)

    def warmup(self, *args: Any, grid: tuple[int, ...], **constants: Any) -> None:  # noqa: ARG002
        """Is called for meta tensors."""
        free = self.kernel.kwargs["do_not_specialize"] or ()
        kinds = [
            arg.dtype if isinstance(arg, Tensor) else (arg == 1, arg % 16 == 0)
            for name, arg in zip(self.kernel.arg_names, args, strict=False)
            if name not in free
        ]
        self.compiled.add((self.kernel.__name__, *kinds, *sorted(constants.items())))
