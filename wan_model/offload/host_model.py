"""A model's weights on the host: where they come from, and where the module expects them.

Tensors that lie in a file as they are in memory are read from the file with ordinary reads. Reading
through the mapped tensors would give the same numbers, but a file that was cut off would then end
the process (SIGBUS) instead of raising an error, and every page would count as the process' own.
"""

import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from io import FileIO
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from ..unreadable import unreadable
from .plan import ModelSizes
from .slab import SlabLayout, TensorPlace

LANES = max(4, min(8, (os.cpu_count() or 1) // 2))
"""Reads at a time. Short videos compute so fast that their blocks have to come at 24 GB/s. Out of
the page cache of a 32-core server, 1, 2, 4 and 8 threads copied 6.7, 11, 20 and 32 GB/s. Fewer
cores keep four, which wait for a disk rather than compute."""

WARMERS = 4
"""Reads ahead at a time, beside the others: one alone leaves a fast disk idle between requests."""

WARM_BYTES = 8 << 20
"""Bytes of one read ahead."""

ADVICE = "Check that the disk is connected, then load the model again."

READS_IN_PLACE = hasattr(os, "preadv")
"""Whether one handle of a file serves all threads, each reading where it wants."""


@dataclass(frozen=True)
class FileRegion:
    """Where a tensor's bytes lie in a file."""

    file: Path
    offset: int
    nbytes: int
    dtype: torch.dtype


class WeightFile:
    """An open file that several threads may read; it stays readable if somebody deletes it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # Without reads at a place of their own, as on Windows, readers would move one another's.
        count = 1 if READS_IN_PLACE else LANES + WARMERS
        try:
            streams = [FileIO(path) for _ in range(count)]
        except OSError as error:
            raise unreadable(path.name, error, ADVICE) from error
        self._file_number = streams[0].fileno()
        self._stamp = self._read_stamp()
        self._idle: SimpleQueue[FileIO] = SimpleQueue()
        for stream in streams:
            self._idle.put(stream)
        weakref.finalize(self, _close, streams)

    def check(self) -> None:
        """Refuses a file that was written to since it was opened.

        Raises:
            CheckpointError: names size or time.
        """
        size, time_ns = self._read_stamp()
        if (size, time_ns) == self._stamp:
            return
        found = f"{size} bytes" if size != self._stamp[0] else "a newer modification time"
        raise CheckpointError(
            f"{self.path.name} was changed while its model was in use. Got {found}, need the "
            f"{self._stamp[0]} bytes that were there when it was loaded. Load the model again."
        )

    def read(self, offset: int, target: memoryview) -> None:
        """Fills `target` with the bytes at `offset`.

        Raises:
            CheckpointError: if the file ends too early or cannot be read.
        """
        done = 0
        try:
            while done < len(target):
                count = self._read_some(offset + done, target[done:])
                if not count:
                    raise CheckpointError(
                        f"{self.path.name} was cut off while its model was in use. Got "
                        f"{self._read_stamp()[0]} bytes, need at least {offset + len(target)}. "
                        "Put the file back, then load the model again."
                    )
                done += count
        except OSError as error:
            raise unreadable(self.path.name, error, ADVICE) from error

    def _read_some(self, offset: int, target: memoryview) -> int:
        if READS_IN_PLACE:
            return os.preadv(self._file_number, [target], offset)
        stream = self._idle.get()
        try:
            stream.seek(offset)
            return stream.readinto(target) or 0
        finally:
            self._idle.put(stream)

    def _read_stamp(self) -> tuple[int, int]:
        status = os.fstat(self._file_number)
        return status.st_size, status.st_mtime_ns


def _close(streams: list[FileIO]) -> None:
    for stream in streams:
        stream.close()


@dataclass(frozen=True)
class _Piece:
    """One tensor's source: a file, or else the tensor itself."""

    place: TensorPlace
    tensor: Tensor
    file: WeightFile | None
    offset: int

    def read(self, target: Tensor, start: int) -> None:
        """Fills `target` (uint8) with the tensor's bytes from `start` on."""
        bytes_ = target.numpy()
        if self.file is None:
            # Copied by numpy, in this thread: torch would start threads of its own for each lane.
            values = self.tensor.contiguous().view(-1).view(torch.uint8).numpy()
            bytes_[:] = values[start : start + target.numel()]
        else:
            self.file.read(self.offset + start, bytes_.data)


@dataclass(frozen=True)
class Extra:
    """Tensors that travel with a block and are not its own, such as those of a LoRA."""

    owner: nn.Module
    """A part of the block, or of what lies outside of the blocks."""
    attribute: str
    """Of the owner: not a parameter or buffer."""
    tensors: tuple[Tensor, ...]
    """On the host, contiguous."""
    make: Callable[..., Any]
    """(the tensors on the device) -> what the attribute is while the block runs."""


class HostSlab:
    """The tensors of one block, or of everything outside the blocks, and what travels with them.

    Attributes:
        layout: of the slab.
    """

    def __init__(
        self, slots: "Sequence[_Slot]", layout: SlabLayout, pieces: Sequence[_Piece]
    ) -> None:
        self.layout = layout
        self._slots = slots
        self._pieces = pieces
        self._host: tuple[Any, ...] = ()

    def read(self, target: Tensor, start: int, pool: ThreadPoolExecutor) -> None:
        """Reads the bytes from `start` on into `target` (uint8, on the host).

        Raises:
            CheckpointError: if a file fails.
        """
        # Equal parts, so that no one is waited for; one after the other each, as disks like it.
        step = -(-target.numel() // LANES)
        runs = [
            pool.submit(self._read_part, target[low : low + step], start + low)
            for low in range(0, target.numel(), step)
        ]
        # All of them have to end before the target may be used again, even if one fails.
        wait(runs)
        while runs:  # emptied, so that the error's traceback does not refer to the error
            runs.pop().result()

    def _read_part(self, target: Tensor, start: int) -> None:
        stop = start + target.numel()
        for piece in self._pieces:
            low = max(start, piece.place.offset)
            high = min(stop, piece.place.offset + piece.place.nbytes)
            if low < high:
                piece.read(target[low - start : high - start], low - piece.place.offset)

    def warm(self) -> None:
        """Reads the slab's files and throws the bytes away, so that the system has them at hand."""
        scratch = memoryview(bytearray(WARM_BYTES))
        for piece in self._pieces:
            if piece.file is not None:
                for start in range(0, piece.place.nbytes, WARM_BYTES):
                    count = min(WARM_BYTES, piece.place.nbytes - start)
                    piece.file.read(piece.offset + start, scratch[:count])

    def views(self, memory: Tensor) -> tuple[Any, ...]:
        """Returns what `bind` takes, for a slab anywhere."""
        # Detached, or compiled code would be made for the size of the slab that they are views of.
        views = (view.detach() for view in self.layout.views(memory))
        return tuple(slot.make(*islice(views, len(slot.tensors))) for slot in self._slots)

    def bind(self, values: Sequence[Any]) -> None:
        """Puts `values` in the place of what the module has itself."""
        self._host = tuple(slot.value for slot in self._slots)
        for slot, value in zip(self._slots, values, strict=True):
            slot.owner[slot.leaf] = value

    def unbind(self) -> None:
        """Gives the module back what it has itself."""
        for slot, value in zip(self._slots, self._host, strict=True):
            slot.owner[slot.leaf] = value
        self._host = ()


@dataclass(frozen=True)
class _Slot:
    """A place in a module: an entry of its parameters, buffers or attributes."""

    name: str
    owner: dict[str, Any]
    leaf: str
    tensors: tuple[Tensor, ...]
    """That travel for it."""
    make: Callable[..., Any]
    """(the tensors on the device) -> the entry."""

    @property
    def value(self) -> Any:
        value = self.owner[self.leaf]
        if value is None:
            raise RuntimeError(f"{self.name} has lost its tensor")
        return value


class HostModel:
    """A module in slabs: one per block, and one for all tensors outside of the blocks.

    Attributes:
        module: the whole.
        blocks: the block modules, in the order they run.
        slabs: one per block.
        outside: the slab of embeddings and head.
    """

    def __init__(
        self,
        module: nn.Module,
        blocks: Iterable[nn.Module],
        regions: Mapping[str, FileRegion] | None = None,
    ) -> None:
        """Describes a module; nothing is read.

        Args:
            module: with all its tensors on the host.
            blocks: parts of it that run one after the other.
            regions: where tensors lie in files, by their names in the module's state dict.
                Used only for tensors that have the file's weight format and size.

        Raises:
            CheckpointError: if one of the files cannot be opened.
        """
        self.module = module
        self.blocks = tuple(blocks)
        self._regions = dict(regions or {})
        paths = {region.file for region in self._regions.values()}
        self._files = {path: WeightFile(path) for path in sorted(paths)}
        self._names = {id(part): name for name, part in module.named_modules()}
        self.carry({})

    def carry(self, extras: Mapping[int | None, Sequence[Extra]]) -> None:
        """Has other tensors travel with the model's own from now on, in new slabs.

        Args:
            extras: by the number of the block, None for what lies outside of the blocks.
        """
        inside = [list(_slots(block)) for block in self.blocks]
        self.slabs = tuple(
            self._slab(slots, f"{self._names[id(block)]}.", extras.get(number, ()))
            for number, (slots, block) in enumerate(zip(inside, self.blocks, strict=True))
        )
        taken = {id(slot.owner) for slots in inside for slot in slots}
        outside = [slot for slot in _slots(self.module) if id(slot.owner) not in taken]
        self.outside = self._slab(outside, "", extras.get(None, ()))

    @property
    def slab_bytes(self) -> int:
        """Bytes of the largest block's slab."""
        return max(slab.layout.nbytes for slab in self.slabs)

    @property
    def nbytes(self) -> int:
        """Bytes of all slabs."""
        return self.outside.layout.nbytes + sum(slab.layout.nbytes for slab in self.slabs)

    def check_files(self) -> None:
        """Refuses files that were written to since they were opened.

        Raises:
            CheckpointError: names the file.
        """
        for file in self._files.values():
            file.check()

    def _slab(self, own: Sequence[_Slot], prefix: str, extras: Sequence[Extra]) -> HostSlab:
        slots = [*own, *(self._extra_slot(extra) for extra in extras)]
        tensors = {
            f"{slot.name}.{number}" if number else slot.name: tensor.detach()
            for slot in slots
            for number, tensor in enumerate(slot.tensors)
        }
        layout = SlabLayout.of(tensors)
        pieces = [
            self._piece(prefix + place.name, tensors[place.name], place) for place in layout.places
        ]
        return HostSlab(slots, layout, pieces)

    def _extra_slot(self, extra: Extra) -> _Slot:
        name = f"{self._names[id(extra.owner)]}.{extra.attribute}"
        return _Slot(name, vars(extra.owner), extra.attribute, extra.tensors, extra.make)

    def _piece(self, name: str, tensor: Tensor, place: TensorPlace) -> _Piece:
        region = self._regions.get(name)
        if region is None or (region.dtype, region.nbytes) != (tensor.dtype, tensor.nbytes):
            return _Piece(place, tensor, None, 0)
        return _Piece(place, tensor, self._files[region.file], region.offset)


def sizes_of(models: Sequence[HostModel]) -> ModelSizes:
    """Returns what a plan follows from of experts with equal numbers of blocks."""
    return ModelSizes(
        blocks=len(models[0].blocks),
        block_bytes=max(model.slab_bytes for model in models),
        outside_bytes=max(model.outside.layout.nbytes for model in models),
        experts=len(models),
    )


def _slots(module: nn.Module) -> Iterator[_Slot]:
    """Yields the place of every tensor in a module, with the names of its state dict."""
    for path, part in module.named_modules():
        prefix = f"{path}." if path else ""
        for make, owner in ((_parameter, part._parameters), (_itself, part._buffers)):
            for leaf, tensor in owner.items():
                if tensor is not None:
                    yield _Slot(prefix + leaf, owner, leaf, (tensor,), make)


def _parameter(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)


def _itself(tensor: Tensor) -> Tensor:
    return tensor
