"""Transformers as files for others: every weight of the blocks in one format that ComfyUI reads.

ComfyUI reads fp8 with one scale for a whole weight only; such files are spelled as all its versions
read them: scales are called scale_weight, and a tensor `scaled_fp8` says that they are there.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import SettingsError
from ..loading.entries import is_block_matrix
from ..loading.grouping import MARK, MARKED_FULL
from ..quant import GGUF_FORMATS, PLAIN, SCALED, StoredWeight, WeightFormat, convert
from ..quant.gguf_formats import GgufFormat
from ..quant.packing import FP8, LARGEST
from ..quant.rotated_formats import CONVROT_INT8
from ..quant.rotation import ROTATIONS
from .gguf_writer import ARCHITECTURE, FILE_TYPES, GgufLayout
from .writer import FileLayout, weight_tensors, write_checkpoint

METADATA = {"format": "pt"}

NamedWeight = tuple[str, StoredWeight]
"""Official name of a tensor, "blocks.0.ffn.0.weight" or "blocks.0.modulation", and what it is."""


@dataclass(frozen=True)
class ExportFormat:
    """What the weights of a file's blocks are."""

    name: str
    format: WeightFormat
    one_scale: bool = False
    """Whether a whole weight has one scale, even if the format is usually scaled row by row."""

    @property
    def is_gguf(self) -> bool:
        """Whether files of it are of GGUF, not of safetensors."""
        return isinstance(self.format, GgufFormat)

    @property
    def suffix(self) -> str:
        """Of its files."""
        return ".gguf" if self.is_gguf else ".safetensors"

    def stored(self, weight: StoredWeight) -> StoredWeight:
        """Returns a weight in this format; codes that have it already are kept."""
        scale = weight.weight_scale
        of_rows = scale is not None and scale.ndim == 2 and not self.one_scale
        if weight.format is self.format and (scale is None or scale.numel() == 1 or of_rows):
            return weight
        if not self.format.is_quantized:
            return convert(weight, self.format)
        dense = weight.dequantize(torch.float32)
        return _fp8_with_one_scale(dense) if self.one_scale else self.format.quantize(dense)


def _fp8_with_one_scale(weight: Tensor) -> StoredWeight:
    scale = weight.abs().amax() / LARGEST[FP8]
    scale = scale.clamp_min_(torch.finfo(torch.float32).tiny)
    return StoredWeight(SCALED[FP8], (weight / scale).to(FP8), scale)


EXPORTS = (
    ExportFormat("bf16", PLAIN[torch.bfloat16]),
    ExportFormat("fp8", SCALED[FP8], one_scale=True),
    ExportFormat("int8", SCALED[torch.int8]),
    ExportFormat("int8 convrot", CONVROT_INT8[ROTATIONS[0]]),
    *(ExportFormat(f"GGUF {kind.name}", kind) for kind in GGUF_FORMATS if kind.name in FILE_TYPES),
)
"""In order of age: all versions of ComfyUI that know Wan2.2 read the first two."""


def find_export(name: str) -> ExportFormat:
    """Returns a format by name.

    Raises:
        SettingsError: for an unknown name.
    """
    found = next((one for one in EXPORTS if one.name == name), None)
    if found is None:
        known = ", ".join(one.name for one in EXPORTS)
        raise SettingsError(
            f"There is no such file format. Got {name!r}, need one of {known}. Choose one of these."
        )
    return found


def _in_format(weights: Iterable[NamedWeight], target: ExportFormat) -> Iterator[NamedWeight]:
    """Yields what a file holds; one weight is in memory at a time.

    What lies outside of the blocks is small and sensitive: it stays what it is, and becomes 16 bit
    where it was quantized.

    Raises:
        SettingsError: for a weight whose rows the format cannot divide.
    """
    for name, weight in weights:
        if not is_block_matrix(name):
            narrow = weight.format.is_quantized or weight.weight_scale is not None
            wide = weight.dequantize(torch.bfloat16) if narrow else weight.weight
            # GGUF's readers want what is no matrix in fp32.
            single = target.is_gguf and wide.ndim != 2
            wide = wide.float() if single or wide.dtype == torch.float64 else wide
            yield name, StoredWeight(PLAIN[wide.dtype], wide)
            continue
        shape = weight.format.shape(tuple(weight.weight.shape))
        if not target.format.fits(shape):
            multiple = target.format.rotation or target.format.block
            raise SettingsError(
                f"The model cannot be stored as {target.name}. Got {name} with rows of "
                f"{shape[-1]}, need a multiple of {multiple}. Choose another format."
            )
        yield name, target.stored(weight)


def exported(weights: Iterable[NamedWeight], target: ExportFormat) -> Iterator[tuple[str, Tensor]]:
    """Yields the tensors of a file; see `_in_format`."""
    for name, stored in _in_format(weights, target):
        layer = name.rpartition(".")[0]
        if target.is_gguf or not is_block_matrix(name):
            yield name, stored.weight
        elif target.one_scale:
            yield name, stored.weight
            assert stored.weight_scale is not None, "fp8 is scaled"
            yield f"{layer}.scale_weight", stored.weight_scale.reshape(())
        else:
            yield from weight_tensors(layer, stored)
    if target.one_scale:
        yield MARK, torch.zeros(MARKED_FULL, dtype=FP8)


def export_checkpoint(
    file: Path,
    outline: Iterable[NamedWeight],
    weights: Iterable[NamedWeight],
    target: ExportFormat,
    on_tensor: Callable[[int, int], None],
) -> None:
    """Writes a file that is there when it is whole.

    Args:
        file: to write.
        outline: the same as `weights` without data, on the meta device.
        weights: of the transformer.
        target: of the blocks' weights.
        on_tensor: called with the number of tensors written, and of all. What it raises ends this,
            and leaves nothing behind.

    Raises:
        SettingsError: for a weight that the format cannot hold.
        OSError: if the file exists already, the disk has too little room, or cannot be written.
    """
    if file.exists():
        raise OSError(f"{file.name} exists already")
    if target.is_gguf:
        layout = GgufLayout.of(_in_format(outline, target), target.format.name)
        metadata = {"general.architecture": ARCHITECTURE}
    else:
        layout, metadata = FileLayout.of(exported(outline, target)), METADATA

    def counted() -> Iterator[tuple[str, Tensor]]:
        for number, tensor in enumerate(exported(weights, target)):
            on_tensor(number, len(layout.places))
            yield tensor

    write_checkpoint(file, layout, counted(), metadata)
