"""What Triton would compile for launches of its kernels, on a computer that cannot launch them."""

from typing import Any

from torch import Tensor


class Launches:
    """Takes a kernel's place, and keeps what Triton would compile for each launch."""

    def __init__(self, kernel: Any, compiled: set[Any]) -> None:
        self.kernel, self.compiled = kernel, compiled

    def __getitem__(self, _grid: tuple[int, ...]):
        def launch(*args: Any, **constants: Any) -> None:
            free = self.kernel.kwargs["do_not_specialize"] or ()
            kinds = [
                arg.dtype if isinstance(arg, Tensor) else (arg == 1, arg % 16 == 0)
                for name, arg in zip(self.kernel.arg_names, args, strict=False)
                if name not in free
            ]
            self.compiled.add((self.kernel.__name__, *kinds, *sorted(constants.items())))

        return launch
