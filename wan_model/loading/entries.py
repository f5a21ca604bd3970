"""A weight of a checkpoint: its format, its logical shape, its scales and its place in the file."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..offload import FileRegion
from ..quant import StoredWeight, WeightFormat
from ..quant.packing import NOT_FINITE
from .source import RawTensor, Reader, check_finite


def is_block_matrix(name: str) -> bool:
    """Whether a tensor of this official name is the weight of a linear layer of a block.

    Everything else is small and sensitive: embeddings, time projection, modulation, norms, head.
    """
    return name.startswith("blocks.") and name.endswith(".weight") and ".norm" not in name


@dataclass(frozen=True)
class Part:
    """One of the tensors that a weight consists of."""

    raw: RawTensor
    dtype: torch.dtype
    """Of its bytes in memory."""
    shape: tuple[int, ...]
    """In memory: a scale's is that of `quant.Stored`."""

    @property
    def region(self) -> FileRegion:
        """Where it lies."""
        return FileRegion(self.raw.file, self.raw.start, self.raw.nbytes, self.dtype)


@dataclass(frozen=True, kw_only=True)
class WeightEntry:
    """One weight of a model, or any other of its tensors, as a file holds it."""

    name: str
    """Official name: "blocks.0.ffn.0.weight", "blocks.0.modulation"."""
    format: WeightFormat
    shape: tuple[int, ...]
    """Of the dequantized weight."""
    parts: dict[str, Part]
    """By leaf: the tensor itself, and "weight_scale" and "weight_scale_2" where it has them."""
    full_precision: bool = False
    """Whether the file asks for its codes to be dequantized before they are multiplied."""

    @property
    def layer(self) -> str:
        """Official name of the module that the weight belongs to."""
        return self.name.rpartition(".")[0]

    @property
    def leaf(self) -> str:
        """Name of the tensor itself in that module."""
        return self.name.rpartition(".")[2]

    @property
    def dense_dtype(self) -> torch.dtype:
        """Of what `read_dense` returns."""
        return self.format.dtype if self.format.is_plain else torch.float32

    @property
    def is_block_matrix(self) -> bool:
        """Whether this is a linear layer of a transformer's block, which may have few bits."""
        return is_block_matrix(self.name)

    def read(self, read: Reader) -> StoredWeight:
        """Reads the weight and its scales.

        Raises:
            CheckpointError: for broken scales.
        """
        leaf, *_ = self.parts
        tensors = {name: read(part.raw, part.dtype) for name, part in self.parts.items()}
        weight = tensors.pop(leaf)
        for name, scale in tensors.items():
            values = scale.float()
            if scale.dtype == torch.uint8:
                values.masked_fill_(scale == NOT_FINITE, torch.nan)
            check_finite(self.parts[name].raw, values)
            of_blocks = scale.itemsize == 1
            tensors[name] = (scale if of_blocks else values).view(self.parts[name].shape)
        return StoredWeight(self.format, weight, **tensors)

    def read_dense(self, read: Reader) -> Tensor:
        """Reads and dequantizes it, for a layer that has no place for scales: a convolution."""
        stored = self.read(read)
        if self.format.is_plain:
            return stored.weight
        if stored.weight_scale is not None:
            stored = replace(stored, weight=stored.weight.flatten(1))
        return stored.dequantize(torch.float32).view(self.shape)


def asks_for_full_precision(entries: Iterable[WeightEntry]) -> bool:
    """Whether all quantized weights of a model's blocks are to be dequantized for matmuls."""
    codes = [e.full_precision for e in entries if e.is_block_matrix and e.format.is_quantized]
    return bool(codes) and all(codes)


def formats_of(entries: Iterable[WeightEntry]) -> tuple[WeightFormat, ...]:
    """Returns the formats of the matrices that make up a model's size, that of most weights first.

    Those are the matrices of its blocks, or else all. The small tables of position biases in text
    encoders are usually left unquantized.
    """
    large = [
        entry
        for entry in entries
        if entry.name.endswith(".weight") and len(entry.shape) > 1
        if "attention_bias" not in entry.name and "pos_embedding" not in entry.name
    ]
    sizes = Counter[str]()
    by_name: dict[str, WeightFormat] = {}
    for entry in [entry for entry in large if "block" in entry.name] or large:
        by_name[entry.format.name] = entry.format
        sizes[entry.format.name] += math.prod(entry.shape)
    return tuple(by_name[name] for name, _ in sizes.most_common())
