"""From an opened checkpoint to a model with its weights: a transformer (one expert), or a VAE.

The model is built on the meta device, must fit the checkpoint exactly, and gets its tensors one by
one.
"""

import logging
import math
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import nn

from ..attention import AttentionFn, resolve
from ..config import DiTConfig, Precision, VaeConfig
from ..dit import WanDiT
from ..errors import CheckpointError, MemoryLimitError, SettingsError
from ..host_memory import container_room, give_back, is_full
from ..offload import FileRegion
from ..quant import (
    AS_STORED,
    PLAIN,
    Linear,
    QuantPolicy,
    StoredWeight,
    fastest_matmul,
    holds,
    policy_for,
)
from ..vae import WanVae
from .checkpoint import Checkpoint, CheckpointInfo, CheckpointLike, open_checkpoint
from .entries import WeightEntry
from .source import Reader, first_names

log = logging.getLogger(__name__)

Dit = TypeVar("Dit", bound=WanDiT)

COMPUTE_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

KeptDtype = Callable[[WeightEntry, nn.Module], torch.dtype]
"""(weight in the file, its module) -> dtype in memory, for tensors that are not kept quantized."""


def load_dit(
    path: CheckpointLike,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    residual_dtype: torch.dtype = torch.float32,
    weights: str | QuantPolicy = AS_STORED,
    compute_device: torch.device | str | None = None,
    attention: str | AttentionFn = "auto",
    dit_class: type[Dit] = WanDiT,
    linear_class: type[Linear] = Linear,
) -> Dit:
    """Loads a diffusion model; every size is read from the file.

    Layers that compute in fp32 (embeddings, norms, modulation, head) keep what the file stores.

    Args:
        path: see `CheckpointLike`.
        device: where the weights go.
        dtype: in which the blocks compute and their weights are kept, but fp16 and bf16 stay what
            they are for the other. None: that of the file, bf16 if it is quantized.
        residual_dtype: of the residual stream.
        weights: format of the blocks' weights, one of `quant.names()`, or a policy. By default
            quantized ones stay as they are and are dequantized when used; with "auto" they are
            multiplied as they are where that is fast, and with "auto, 8 bit" those of 8 bits also
            if the file asks to have them dequantized.
        compute_device: where the model will run, which decides what formats there are, and where
            weights are converted. None: `device`.
        attention: an attention function, or the name of a backend.
        dit_class: the transformer to build, with the parameters of `WanDiT`.
        linear_class: its linear layers.

    Raises:
        CheckpointError: for a file that is damaged, unsafe, incomplete, or of another model.
        BackendError: if the attention backend or the format cannot run there.
        SettingsError: for a dtype that cannot be computed in, or that contradicts `weights`.
    """
    _check_compute_dtype(dtype)
    checkpoint = open_checkpoint(path)
    config, info = checkpoint.require(DiTConfig), checkpoint.info
    log.info("Loading %s from %s", info.label, info.path.name)
    policy = weights
    if isinstance(policy, str):
        where, full = torch.device(compute_device or device), info.full_precision
        policy = policy_for(policy, where, info.formats, full_precision=full)
    compute_dtype = policy.compute_dtype(dtype, _default_dtype(info))
    precision = Precision(compute_dtype=compute_dtype, residual_dtype=residual_dtype)
    attend = resolve(attention) if isinstance(attention, str) else attention
    with torch.device("meta"):
        model = dit_class(config, precision=precision, attention=attend, linear=linear_class)
    _fill(model, checkpoint, torch.device(device), _kept_dtype, policy)
    layers = [m for m in model.blocks.modules() if isinstance(m, Linear)]
    formats = Counter(f"{layer.format.name} ({layer.matmul.name})" for layer in layers)
    counts = ", ".join(f"{count} {name}" for name, count in formats.items())
    log.info("Loaded %s, computing in %s; weights: %s", info.path.name, compute_dtype, counts)
    return model.eval()


def load_vae(
    path: CheckpointLike,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> WanVae:
    """Loads the Wan2.1 or the Wan2.2 VAE, or a preview VAE of either, whichever the file holds.

    Args:
        path: see `CheckpointLike`.
        device: where the weights go.
        dtype: of the weights and the arithmetic. None: that of the file.

    Raises:
        CheckpointError: for a file that is damaged, unsafe, incomplete, or of another model.
    """
    _check_compute_dtype(dtype)
    checkpoint = open_checkpoint(path, "vae")
    config, build = checkpoint.require(VaeConfig), checkpoint.kind.build
    assert build is not None, "VAEs are built from their sizes alone"
    weight_dtype = dtype or _default_dtype(checkpoint.info)
    with torch.device("meta"):
        vae = build(config)
    target = torch.device(device)
    _fill(vae, checkpoint, target, lambda *_: weight_dtype, QuantPolicy(device=target))
    vae.arrange_weights()
    log.info("Loaded %s from %s as %s", checkpoint.info.label, checkpoint.path.name, weight_dtype)
    return vae.eval()


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
        module = model.get_submodule(entry.layer)
        if isinstance(module, Linear) and entry.leaf == "weight":
            own = module.format
        else:
            own = PLAIN[getattr(module, entry.leaf).dtype]
        if not holds(entry.format, own):
            continue
        for leaf, part in entry.parts.items():
            # A scale may be fp32 in memory only, and codes that had none may have got one.
            if leaf == entry.leaf or getattr(module, leaf).dtype == part.dtype:
                regions[f"{entry.layer}.{leaf}" if entry.layer else leaf] = part.region
    return regions


def _check_compute_dtype(dtype: torch.dtype | None) -> None:
    """Refuses dtypes that no block can compute in."""
    if dtype is not None and dtype not in COMPUTE_DTYPES:
        raise SettingsError(
            f"The precision cannot be used. Got {dtype}, need torch.float32, torch.bfloat16 or "
            "torch.float16. Quantized files keep their storage format with any of these."
        )


def _default_dtype(info: CheckpointInfo) -> torch.dtype:
    """Returns the dtype to compute in: that of most weights, bf16 if those are quantized."""
    most = info.formats[0]
    if most.is_quantized:
        return torch.bfloat16
    return most.dtype if most.dtype in COMPUTE_DTYPES else torch.float32


def check_shapes(
    expected: Mapping[str, tuple[int, ...]],
    checkpoint: Checkpoint,
    found: Mapping[str, WeightEntry],
) -> None:
    """Refuses a checkpoint that is not exactly the model.

    Args:
        expected: shapes of the model's tensors, by name.
        checkpoint: of which `found` are the entries, for messages.
        found: entries by the model's names.

    Raises:
        CheckpointError: counts what is missing, unexpected and of another shape, with names.
    """
    extra = [entry for name, entry in found.items() if name not in expected]
    differences = {
        "missing": [name for name in expected if name not in found],
        "unexpected": [part.raw.name for entry in extra for part in entry.parts.values()],
        "of another shape": [
            f"{name}: {list(found[name].shape)} instead of {list(shape)}"
            for name, shape in expected.items()
            if name in found and found[name].shape != shape
        ],
    }
    listed = [f"{len(n)} {what} ({first_names(n)})" for what, n in differences.items() if n]
    if listed:
        cut_off = bool(differences["missing"])
        raise CheckpointError(
            f"{checkpoint.path.name} does not fit its model, {checkpoint.info.label}. Got tensors "
            f"that differ: {'; '.join(listed)}; need exactly the {len(expected)} tensors of the "
            "model. "
            + ("Download the file again." if cut_off else "Choose another version of the model.")
        )


def _kept_dtype(entry: WeightEntry, module: nn.Module) -> torch.dtype:
    """Returns the dtype in which a tensor of a transformer is kept.

    Only the blocks' linear layers are cast to what they compute in, and not from one 16 bit format
    to the other: they stay views of the file and are cast at use, since an fp16 pair for bf16 would
    take 57 GB of RAM. All else computes in fp32 and is not rounded; fp8 survives only in linear
    layers.
    """
    stored = entry.dense_dtype
    if isinstance(module, Linear):
        if stored.itemsize == 1:
            return stored
        if entry.name.startswith("blocks."):
            compute = module.compute_dtype
            return stored if stored.itemsize == compute.itemsize else compute
    return stored if stored in COMPUTE_DTYPES else torch.float32


def _fill(
    model: nn.Module,
    checkpoint: Checkpoint,
    device: torch.device,
    kept_dtype: KeptDtype,
    policy: QuantPolicy,
) -> None:
    """Gives every parameter of an empty model its tensor, one by one.

    A linear layer's tensor that needs no change and stays on the CPU remains a view of the file.
    Weights of the blocks' linear layers are what the policy says, if it takes them.

    Raises:
        CheckpointError: for tensors that are not exactly the model's, for broken scales, or if the
            file cannot be read after all.
        MemoryLimitError: if the computer's memory is full.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    check_shapes(expected, checkpoint, checkpoint.entries)
    _check_room(model, checkpoint, device, kept_dtype)
    read = Reader()
    try:
        _put_tensors(model, checkpoint, read, device, kept_dtype, policy)
    except (MemoryError, RuntimeError, OSError) as error:
        if not is_full(error):
            raise
        # Whoever keeps the error shall not keep what has been loaded.
        traceback.clear_frames(error.__traceback__)
        model.to("meta")
        read.close()
        give_back()
        size = checkpoint.info.bytes / 2**30
        raise MemoryLimitError(
            f"The computer's memory is full while loading {checkpoint.path.name}. Got no more of "
            f"it from the system, need up to {size:.1f} GiB. Close other programs, or choose a "
            "smaller version of the model, such as fp8."
        ) from error


def _check_room(
    model: nn.Module, checkpoint: Checkpoint, device: torch.device, kept_dtype: KeptDtype
) -> None:
    """Refuses weights that a container has no memory for; the system would end the program.

    Counted is what does not stay a view of the file: tensors that become wider or narrower.
    """
    room = container_room() if device.type == "cpu" else None
    if room is None:
        return
    needed = 0
    for name, entry in checkpoint.entries.items():
        dtype = kept_dtype(entry, model.get_submodule(name.rpartition(".")[0]))
        if entry.format.is_plain and dtype != entry.dense_dtype:
            needed += math.prod(entry.shape) * dtype.itemsize
    if needed > room:
        raise MemoryLimitError(
            f"{checkpoint.path.name} does not fit into this container's memory. Got "
            f"{room / 2**30:.1f} GiB that are left of its limit, need {needed / 2**30:.1f} GiB. "
            "Give the container more, choose the precision that the file has, or a smaller "
            "version of the model, such as fp8."
        )


def _put_tensors(
    model: nn.Module,
    checkpoint: Checkpoint,
    read: Reader,
    device: torch.device,
    kept_dtype: KeptDtype,
    policy: QuantPolicy,
) -> None:
    matmul = fastest_matmul(policy.device, checkpoint.info.formats, policy.expanded)
    for name in model.state_dict():
        entry, (layer, _, leaf) = checkpoint.entries[name], name.rpartition(".")
        module = model.get_submodule(layer)
        dtype = kept_dtype(entry, module)
        if not (isinstance(module, Linear) and leaf == "weight"):
            # A few MB, and a VAE's half GB, are not worth a process that ends with its file.
            tensor = entry.read_dense(read).to(device, dtype, copy=True)
            setattr(module, leaf, nn.Parameter(tensor, requires_grad=False))
            continue
        stored = entry.read(read)
        # Against what the file asks only if a person says so.
        may = not entry.full_precision or policy.overrules(stored.format)
        if entry.is_block_matrix and may and policy.takes(stored):
            policy.place(module, stored, device)
        elif entry.format.is_plain:
            module.put(StoredWeight(PLAIN[dtype], stored.weight.to(device).to(dtype)))
        else:
            module.put(stored.to(device))
            module.matmul = matmul
