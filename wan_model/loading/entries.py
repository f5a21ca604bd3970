"""A weight of a checkpoint: its format, its logical shape, its scales and its place in the file."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..offload import FileRegion
from ..quant import StoredWeight, WeightFormat
from ..quant.packing import NOT_FINITE, swizzled_shape
from ..quant.rotated_formats import CODEBOOK_SIZE, INT4, W4A8
from .source import RawTensor, Reader, shown


def is_block_matrix(name: str) -> bool:
    """Whether a tensor of this official name is the weight of a linear layer of a block.

    Everything else is small and sensitive: embeddings, time projection, modulation, norms, head.
    """
    return name.startswith("blocks.") and name.endswith(".weight") and ".norm" not in name


@dataclass(frozen=True, kw_only=True)
class WeightEntry:
    """One weight of a model, or any other of its tensors, as a file holds it."""

    name: str
    """Official name: "blocks.0.ffn.0.weight", "blocks.0.modulation"."""
    format: WeightFormat
    shape: tuple[int, ...]
    """Of the dequantized weight."""
    parts: dict[str, RawTensor]
    """By leaf: the tensor itself, and "weight_scale" and "weight_scale_2" where it has them."""
    regions: dict[str, FileRegion]
    """By leaf: where the parts lie, and what they are in memory."""
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
    def nbytes(self) -> int:
        """Bytes in the file."""
        return sum(part.nbytes for part in self.parts.values())

    @property
    def is_block_matrix(self) -> bool:
        """Whether this is a linear layer of a transformer's block, which may have few bits."""
        return is_block_matrix(self.name)

    def read(self, read: Reader) -> StoredWeight:
        """Reads the weight and its scales.

        Raises:
            CheckpointError: for scales that are broken or of a wrong shape.
        """
        leaf, *scales = self.parts
        tensors = {leaf: read(part, self.regions[leaf].dtype) for leaf, part in self.parts.items()}
        others = {name: self._checked(name, tensors[name]) for name in scales}
        return StoredWeight(self.format, tensors[leaf], **others)

    def read_dense(self, read: Reader) -> Tensor:
        """Reads the weight as numbers, for a layer that has no place for scales: a convolution."""
        stored = self.read(read)
        if self.format.is_plain:
            return stored.weight
        if stored.weight_scale is not None:
            stored = replace(stored, weight=stored.weight.flatten(1))
        return stored.dequantize(torch.float32).view(self.shape)

    def _checked(self, leaf: str, scale: Tensor) -> Tensor:
        """Returns a scale as `quant` takes it: see `Stored` and `scale_weight`."""
        part, values = self.parts[leaf], scale.float()
        fixed = self._fixed_shape(leaf)
        if fixed is not None and (part.shape != fixed or not self.format.fits(self.shape)):
            raise self._wrong_shape(part, f"{list(fixed)}")
        if leaf == "weight_scale" and scale.dtype == torch.uint8:
            values.masked_fill_(scale == NOT_FINITE, torch.nan)
        _check_finite(part, values)
        if fixed is not None:
            return scale if leaf == "weight_scale" else values
        if values.numel() == 1:
            return values.reshape(())
        rows, columns = self.shape[0], math.prod(self.shape[1:])
        of_rows = leaf == "weight_scale"
        if of_rows and values.shape in ((rows,), (rows, 1)):
            return values.reshape(rows, 1)
        if of_rows and self.format.base is not INT4:
            blocks = values.shape[1] if values.ndim == 3 else 0
            if bool(blocks) and columns % blocks == 0 and values.shape == (rows, blocks, 1):
                return values
            if values.ndim == 2 and _square_tiles(rows, columns, *values.shape):
                return values.unsqueeze(2)
        need = f"[1], [{rows}, 1] or [{rows}, blocks, 1]" if of_rows else "[1]"
        raise self._wrong_shape(part, need)

    def _fixed_shape(self, leaf: str) -> tuple[int, ...] | None:
        """Returns the one shape that a scale has in every file, if there is one."""
        rows, columns = self.shape[0], self.shape[-1]
        if leaf == "weight_codebook":
            return (CODEBOOK_SIZE,)
        if leaf == "pre_quant_scale":
            return (columns,)
        if self.format.base is W4A8:
            stored = self.parts[leaf].shape
            groups = stored[-1] if stored else 0
            if leaf == "weight_scale" and (groups == 0 or columns % groups):
                raise self._wrong_shape(self.parts[leaf], f"[{rows}, groups]")
            return (rows, groups) if leaf == "weight_scale" else (rows,)
        if self.format.block > 1 and leaf == "weight_scale":
            return swizzled_shape(rows, -(-columns // self.format.block))
        return None

    def _wrong_shape(self, part: RawTensor, need: str) -> CheckpointError:
        return CheckpointError(
            f"{part.file.name} holds a scale of a wrong shape. Got {list(part.shape)} in "
            f"{shown(part.name)}, need {need} for a weight of shape {list(self.shape)}. Choose "
            "another version of the model."
        )


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


def _square_tiles(rows: int, columns: int, down: int, across: int) -> bool:
    """Whether so many scales down and across are those of square tiles of a weight."""
    divides = bool(down and across) and rows % down == 0 and columns % across == 0
    return divides and rows // down == columns // across


def _check_finite(part: RawTensor, values: Tensor) -> None:
    """Refuses infinity and NaN; tensors without data pass."""
    if values.is_meta or bool(values.isfinite().all()):
        return
    broken = values[~values.isfinite()][0].item()
    raise CheckpointError(
        f"{part.file.name} holds broken scales. Got {broken} in {shown(part.name)}, need finite "
        "values. Download the file again, or choose another version of the model."
    )
