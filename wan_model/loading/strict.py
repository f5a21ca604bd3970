"""The strict match of a checkpoint and an empty model, and the transfer of the tensors."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, MemoryLimitError
from ..offload import FileRegion
from ..quant import (
    DEQUANTIZED,
    PLAIN,
    Linear,
    Matmul,
    QuantPolicy,
    StoredWeight,
    WeightFormat,
    holds,
)
from .checkpoint import Checkpoint
from .entries import WeightEntry
from .source import FULL_MEMORY, Reader, first_names

KeptDtype = Callable[[str, nn.Module, torch.dtype], torch.dtype]
"""(tensor name, its module, dtype in the file) -> dtype in memory, for tensors without scale."""


def check_tensors(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Refuses a checkpoint that is not exactly the model: names and shapes.

    Raises:
        CheckpointError: counts what is missing, unexpected and of another shape, with names.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    check_shapes(expected, checkpoint, checkpoint.entries)


def check_shapes(
    expected: Mapping[str, tuple[int, ...]],
    checkpoint: Checkpoint,
    found: Mapping[str, WeightEntry],
) -> None:
    """The same, for a model of which only the shapes are known, and entries by its names."""
    missing = [name for name in expected if name not in found]
    unexpected = [
        part.name
        for name, entry in found.items()
        if name not in expected
        for part in entry.parts.values()
    ]
    reshaped = [
        f"{name}: {list(found[name].shape)} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name].shape != shape
    ]
    if not (missing or unexpected or reshaped):
        return
    differences = [
        f"{len(names)} {what} ({first_names(names)})"
        for what, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", reshaped),
        )
        if names
    ]
    raise CheckpointError(
        f"{checkpoint.path.name} does not fit its model, {checkpoint.info.label}. Got tensors that "
        f"differ: {'; '.join(differences)}; need exactly the {len(expected)} tensors of the model. "
        + ("Download the file again." if missing else "Choose another version of the model.")
    )


def fill(
    model: nn.Module,
    checkpoint: Checkpoint,
    device: torch.device,
    kept_dtype: KeptDtype,
    policy: QuantPolicy | None = None,
    matmul: Matmul = DEQUANTIZED,
) -> None:
    """Gives every parameter of an empty model its tensor, one by one.

    A tensor that needs no change and stays on the CPU remains a view of the file. Weights of
    the blocks' linear layers are what the policy says, if it takes them. Other quantized
    ones are multiplied with `matmul`.

    Raises:
        CheckpointError: for broken scales, or if the file cannot be read after all.
        MemoryLimitError: if the computer's memory is full.
    """
    read = Reader()
    with _memory_limit(checkpoint):
        for name in model.state_dict():
            entry = checkpoint.entries[name]
            module, leaf = model.get_submodule(entry.layer), name.rpartition(".")[2]
            stored = entry.read(read)
            if not (isinstance(module, Linear) and leaf == "weight"):
                tensor = _dense(stored).to(device)
                tensor = tensor.to(kept_dtype(name, module, tensor.dtype))
                setattr(module, leaf, nn.Parameter(tensor, requires_grad=False))
            elif policy is not None and entry.is_block_matrix and policy.takes(stored):
                policy.place(module, stored, device)
            elif stored.format is not PLAIN.get(stored.weight.dtype):
                module.put(stored.to(device))
                module.matmul = matmul
            else:
                tensor = stored.weight.to(device)
                tensor = tensor.to(kept_dtype(name, module, tensor.dtype))
                module.put(StoredWeight(PLAIN[tensor.dtype], tensor))


def unchanged_regions(model: nn.Module, checkpoint: Checkpoint) -> dict[str, FileRegion]:
    """Returns where a loaded model's tensors lie in its file; what `offload.HostModel` reads from.

    Those are the ones that are in memory what they are in the file: of layers that kept their
    format, and codes that got a scale of one.

    Args:
        model: what `load_dit` gave.
        checkpoint: what it was loaded from.
    """
    regions: dict[str, FileRegion] = {}
    for entry in checkpoint.entries.values():
        module, leaf = model.get_submodule(entry.layer), entry.name.rpartition(".")[2]
        own = PLAIN[getattr(module, leaf).dtype] if leaf != "weight" else _format_of(module)
        if not holds(entry.format, own):
            continue
        for part, region in entry.regions.items():
            # A scale may be fp32 in memory only, and codes that had none may have got one.
            if part == leaf or getattr(module, part).dtype == region.dtype:
                regions[f"{entry.layer}.{part}" if entry.layer else part] = region
    return regions


def _format_of(module: nn.Module) -> WeightFormat:
    weight = module.weight
    assert isinstance(weight, Tensor)
    return module.format if isinstance(module, Linear) else PLAIN[weight.dtype]


@contextmanager
def _memory_limit(checkpoint: Checkpoint) -> Iterator[None]:
    """Turns what libraries raise when the system gives them no memory into an error of ours."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(s in str(error) for s in FULL_MEMORY):
            raise
        size = checkpoint.info.bytes / 2**30
        raise MemoryLimitError(
            f"The computer's memory is full while loading {checkpoint.path.name}. Got no more of "
            f"it from the system, need up to {size:.1f} GiB. Close other programs, or choose a "
            "smaller version of the model, such as fp8."
        ) from error


def _dense(stored: StoredWeight) -> Tensor:
    """Returns a tensor of numbers, for a layer that has no place for scales: a convolution."""
    weight = stored.weight
    if stored.format is PLAIN.get(weight.dtype):
        return weight
    flat = stored if stored.weight_scale is None else replace(stored, weight=weight.flatten(1))
    shape = stored.format.shape(tuple(weight.shape))
    return flat.dequantize(torch.float32).view(shape)
