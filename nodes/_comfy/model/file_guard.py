"""Model files whose tensors stay where they are, in the mapped file, while a model runs."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from ....wan_model.dit import BlockFn, BlockInputs, BlockRunner
from ....wan_model.offload.host_model import WeightFile

Velocity = Callable[[BlockRunner], Tensor]


class FileGuard:
    """Looks before each pass and each block whether the files are still what they were.

    Reading a mapped file that somebody has cut off ends the process, and one that was written to
    gives other weights in the middle of a video.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        """Opens files, which stay readable if somebody deletes or replaces them."""
        self._files = [WeightFile(file) for file in files]

    def __deepcopy__(self, memo: Any) -> "FileGuard":
        """Returns this: copies of a model lie in the same files."""
        return self

    def check(self) -> None:
        """Refuses files that were written to.

        Raises:
            CheckpointError: names the file.
        """
        for file in self._files:
            file.check()

    def run(self, velocity: Velocity, runner: BlockRunner) -> Tensor:
        """Returns the velocity; files are looked at on the way."""

        def run(blocks: Iterable[BlockFn], x: Tensor, given: BlockInputs, /) -> Tensor:
            return runner(self._checked(blocks), x, given)

        self.check()
        return velocity(run)

    def _checked(self, blocks: Iterable[BlockFn]) -> Iterator[BlockFn]:
        for block in blocks:
            self.check()
            yield block
        self.check()
