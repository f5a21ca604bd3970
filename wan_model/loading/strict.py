"""The strict match of a checkpoint and an empty model, and the transfer of the tensors."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, MemoryLimitError
from ..quant import PLAIN, Linear, QuantPolicy, StoredWeight
from .checkpoint import Checkpoint, first_names, tensor_reader
from .detect import CheckpointInfo
from .formats import SCALE, TENSOR_SCALE, block_format, is_block_matrix, shape_of
from .notes import is_note
from .stored import read_stored

FULL_MEMORY = ("allocate memory", "not enough memory")
"""What torch's messages say on Linux and on Windows; it has no type of its own for the host."""

StorageDtype = Callable[[str, nn.Module, torch.dtype], torch.dtype]
"""(tensor name, its module, dtype in the file) -> dtype in memory, for weights without scale."""


def check_tensors(model: nn.Module, checkpoint: Checkpoint, info: CheckpointInfo) -> None:
    """Refuses a checkpoint that is not exactly the model: names and shapes.

    Raises:
        CheckpointError: counts what is missing, unexpected and of another shape, with names.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    tensors = checkpoint.tensors
    found = {name: shape_of(tensors, name) for name in tensors if not is_note(name)}
    missing = [name for name in expected if name not in found]
    unexpected = [
        tensors[name].name
        for name in found
        if name not in expected and not _scales_matrix(name, expected, checkpoint)
    ]
    reshaped = [
        f"{name}: {list(found[name])} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
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
        f"{checkpoint.path.name} does not fit its model, {info.label}. Got tensors that differ: "
        f"{'; '.join(differences)}; need exactly the {len(expected)} tensors of the model. "
        + ("Download the file again." if missing else "Choose another version of the model.")
    )


def _scales_matrix(
    name: str, shapes: Mapping[str, tuple[int, ...]], checkpoint: Checkpoint
) -> bool:
    """Whether a tensor is the scale of a weight that has rows."""
    if name.endswith(TENSOR_SCALE):
        weight = name.removesuffix(TENSOR_SCALE) + ".weight"
        return weight in shapes and block_format(checkpoint.tensors, weight) == "nvfp4"
    weight = name.removesuffix(SCALE) + ".weight"
    return name.endswith(SCALE) and len(shapes.get(weight, ())) > 1


def fill(
    model: nn.Module,
    checkpoint: Checkpoint,
    device: torch.device,
    storage: StorageDtype,
    policy: QuantPolicy | None = None,
) -> None:
    """Gives every parameter of an empty model its tensor, one by one.

    A tensor that needs no change and stays on the CPU remains a view of the file. Weights of
    the blocks' linear layers are what the policy says, if it takes them.

    Raises:
        CheckpointError: for broken scales, or if the file cannot be read after all.
        MemoryLimitError: if the computer's memory is full.
    """
    with _memory_limit(checkpoint), tensor_reader() as read:
        for name in model.state_dict():
            path, _, leaf = name.rpartition(".")
            module = model.get_submodule(path)
            stored = read_stored(read, checkpoint, name)
            if isinstance(module, Linear) and leaf == "weight":
                if policy is not None and is_block_matrix(name) and policy.takes(stored):
                    policy.place(module, stored, device)
                    continue
                if stored.weight_scale is not None:
                    module.put(stored.to(device))
                    continue
            tensor = _dense(stored)
            tensor = tensor.to(device).to(storage(name, module, tensor.dtype))
            if isinstance(module, Linear) and leaf == "weight":
                module.put(StoredWeight(PLAIN[tensor.dtype], tensor))
            else:
                setattr(module, leaf, nn.Parameter(tensor, requires_grad=False))


@contextmanager
def _memory_limit(checkpoint: Checkpoint) -> Iterator[None]:
    """Turns what libraries raise when the system gives them no memory into an error of ours."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(s in str(error) for s in FULL_MEMORY):
            raise
        files = {entry.file for entry in checkpoint.tensors.values()}
        size = sum(file.stat().st_size for file in files) / 2**30
        raise MemoryLimitError(
            f"The computer's memory is full while loading {checkpoint.path.name}. Got no more of "
            f"it from the system, need up to {size:.1f} GiB. Close other programs, or choose a "
            "smaller version of the model, such as fp8."
        ) from error


def _dense(stored: StoredWeight) -> Tensor:
    """Returns a tensor without scales, for a layer that has no place for them: a convolution."""
    weight = stored.weight
    if stored.weight_scale is None:
        return weight
    flat = replace(stored, weight=weight.flatten(1))
    return flat.dequantize(torch.float32).view_as(weight)
