"""A LoRA file, opened: its tensors by what they change, nothing of their data read yet."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..loading.files import refuse_other_files
from ..loading.source import RawTensor, Reader, damaged, first_names, shown
from ..loading.source_safetensors import DTYPES, open_safetensors
from ..presets import Alpha, Distilled, recognise
from ..unreadable import unreadable
from .dialects import expert_of, take_apart, what_else
from .scales import HeaderScales

STORED = {name: dtype for dtype, name in DTYPES.items()} | {
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "BOOL": torch.bool,
}
"""What tensors of LoRA files may be; alphas and switches are also stored as whole numbers."""


SCALES = 4
"""Modules whose scales are read to tell what made a file."""

Read = Callable[[RawTensor, torch.dtype], Tensor]
"""Reads a tensor in the dtype that it is stored in."""

NUMBERS = ("alpha", "scalar", "on_input")
"""Leaves that may be a single number."""


@dataclass(frozen=True, kw_only=True)
class LoraModule:
    """What one module of a file holds."""

    file: Path
    name: str
    """As the file spells it."""
    tensors: dict[str, RawTensor]
    """By leaf, see `dialects.LEAVES`."""
    header: HeaderScales
    read: Read = field(repr=False)

    def __contains__(self, leaf: str) -> bool:
        return leaf in self.tensors

    def __getitem__(self, leaf: str) -> Tensor:
        """Returns a tensor, a copy, since files are cut off and replaced while they are in use.

        Raises:
            CheckpointError: if it is not there, empty, or a number in the place of a matrix.
        """
        raw = self.tensors.get(leaf)
        if raw is None:
            got = ", ".join(self.tensors)
            raise damaged(self.file, f"{shown(self.name)} is not whole", got, f"{leaf} as well")
        if 0 in raw.shape or (raw.shape == () and leaf not in NUMBERS):
            what = f"A tensor of {shown(self.name)} has no rows"
            raise damaged(self.file, what, f"{leaf} of shape {list(raw.shape)}", "one with rows")
        return self.read(raw, STORED[raw.stored_dtype]).clone()

    def peek(self, leaf: str) -> Tensor:
        """Returns a tensor that is there: the file itself, of which only what is touched is read.

        It is not to be kept, see `__getitem__`.
        """
        raw = self.tensors[leaf]
        return self.read(raw, STORED[raw.stored_dtype])

    def get(self, leaf: str) -> Tensor | None:
        """Returns a tensor, None if it is not there."""
        return self[leaf] if leaf in self.tensors else None

    def number(self, leaf: str) -> float | None:
        """Returns a single number, stored in any dtype; None if it is not there."""
        tensor = self.get(leaf)
        if tensor is None:
            return None
        value = float(tensor.double()) if tensor.numel() == 1 else math.nan
        if not math.isfinite(value):
            got = f"{leaf} of {shown(self.name)}"
            raise damaged(self.file, "It has a scale that is not a number", got, "one number")
        return value

    def scale(self, rank: int) -> float:
        """Returns what a product of this rank is multiplied by at strength 1."""
        alpha, scalar = self.number("alpha"), self.number("scalar")
        scale = self.header(self.name, rank) if alpha is None else alpha / rank
        return scale * (1.0 if scalar is None else scalar)


@dataclass(frozen=True, kw_only=True)
class LoraFile:
    """A file of LoRAs for one model or, of A14B, for both experts."""

    path: Path
    modules: tuple[LoraModule, ...]
    unknown: tuple[str, ...]
    """Keys that no kind of LoRA has."""
    metadata: dict[str, str]

    @cached_property
    def of_both_experts(self) -> bool:
        """Whether the file holds a pair: modules of the low-noise expert, and others."""
        found = {expert_of(module.name)[0] for module in self.modules}
        return "low" in found and len(found) > 1

    @property
    def most_patches(self) -> int:
        """How many tensors of a model the file changes at most."""
        return sum(1 + ("diff_b" in module) for module in self.modules)

    def outline(self) -> "LoraFile":
        """Returns the same file whose tensors have shapes alone, but for single numbers."""
        modules = (replace(each, read=partial(_outline, each.read)) for each in self.modules)
        return replace(self, modules=tuple(modules))

    @cached_property
    def distilled(self) -> Distilled | None:
        """What it makes a model that it is put on, if that is one for few steps.

        Raises:
            CheckpointError: for a scale that is no number.
        """
        names = [f"{module.name}.{leaf}" for module in self.modules for leaf in module.tensors]
        ranked = [module for module in self.modules if {"alpha", "down"} <= module.tensors.keys()]
        alphas = [_alpha(module) for module in ranked[:SCALES]]
        return recognise(self.path.name, "lora", self.metadata, names, alphas)


def _outline(read: Read, raw: RawTensor, dtype: torch.dtype) -> Tensor:
    """Returns a tensor on the meta device, but a single number, such as a scale, as it is."""
    if math.prod(raw.shape) == 1:
        return read(raw, dtype)
    return torch.empty(raw.shape, dtype=dtype, device="meta")


def _alpha(module: LoraModule) -> Alpha:
    alpha, down = module.tensors["alpha"], module.tensors["down"]
    return Alpha(
        down.shape[0] if down.shape else 0, module.number("alpha") or 0.0, alpha.stored_dtype
    )


def open_lora(path: Path) -> LoraFile:
    """Reads the header of a LoRA file.

    Raises:
        CheckpointError: for a file that is damaged, unsafe or no LoRA; it names what it is instead.
        ShortageError: if there is no memory for its header, or no file handle.
    """
    try:
        refuse_other_files(path)
        source = open_safetensors(path)
    except (MemoryError, OSError) as error:
        raise unreadable(path.name, error, "Check the path and its permissions.") from error
    found: dict[str, dict[str, RawTensor]] = {}
    unknown: list[str] = []
    for raw in source.tensors:
        key = take_apart(raw.name)
        if key is None or raw.stored_dtype not in STORED:
            unknown.append(raw.name)
        elif key.leaf in (leaves := found.setdefault(key.module, {})):
            got = f"{shown(leaves[key.leaf].name)} and {shown(raw.name)}"
            raise CheckpointError(
                f"{path.name} holds one LoRA twice. Got {got}, need each tensor once. Use the "
                "file of one training run."
            )
        else:
            leaves[key.leaf] = raw
    for name, leaves in list(found.items()):
        if leaves.keys() == {"weight"}:  # of a model, not of a LoRA
            unknown.append(found.pop(name)["weight"].name)
    if not any(leaves.keys() - {"alpha", "weight", "scalar"} for leaves in found.values()):
        raise not_a_lora(path, [raw.name for raw in source.tensors])
    read, header = Reader(), HeaderScales(path, source.metadata)
    return LoraFile(
        path=path,
        unknown=tuple(unknown),
        metadata=source.metadata,
        modules=tuple(
            LoraModule(file=path, name=name, tensors=leaves, header=header, read=read)
            for name, leaves in found.items()
        ),
    )


def not_a_lora(path: Path, keys: list[str]) -> CheckpointError:
    """Returns the error for a file that has nothing for a model of Wan."""
    what = what_else(keys) or f"tensors called {first_names(keys)}"
    return CheckpointError(
        f"{path.name} is not a LoRA for Wan. Got {what}, need a LoRA file for Wan 2.2 or Wan 2.1. "
        "Choose another file."
    )
