"""Loads one transformer (one expert)."""

import logging
from collections import Counter
from typing import TypeVar

import torch
from torch import nn

from ..attention import AttentionFn, resolve
from ..config import DiTConfig, Precision
from ..dit import WanDiT
from ..errors import SettingsError
from ..quant import AS_STORED, Linear, QuantPolicy, fastest_matmul, policy_for
from .checkpoint import CheckpointInfo, CheckpointLike, open_checkpoint
from .strict import check_tensors, fill

log = logging.getLogger(__name__)

Dit = TypeVar("Dit", bound=WanDiT)

COMPUTE_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


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
        path: a .safetensors or .gguf file, a shard or the index of a sharded one, or a folder
            with one; or a checkpoint that is open already.
        device: where the weights go.
        dtype: in which the blocks compute and their weights are kept, but fp16 and bf16 stay what
            they are for the other. None: that of the file, bf16 if it is quantized.
        residual_dtype: of the residual stream.
        weights: format of the blocks' weights, one of `quant.names()`, or a policy. By default
            quantized ones stay as they are and are dequantized when used; with "auto" they are
            multiplied as they are where that is fast.
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
    check_compute_dtype(dtype)
    checkpoint = open_checkpoint(path)
    config, info = checkpoint.require(DiTConfig), checkpoint.info
    policy = weights
    if isinstance(policy, str):
        policy = policy_for(policy, torch.device(compute_device or device), info.formats)
    compute_dtype = policy.compute_dtype(dtype, default_dtype(info))
    precision = Precision(compute_dtype=compute_dtype, residual_dtype=residual_dtype)
    attend = resolve(attention) if isinstance(attention, str) else attention
    with torch.device("meta"):
        model = dit_class(config, precision=precision, attention=attend, linear=linear_class)
    check_tensors(model, checkpoint)
    matmul = fastest_matmul(policy.device, info.formats)
    fill(model, checkpoint, torch.device(device), kept_dtype, policy, matmul)
    layers = [m for m in model.blocks.modules() if isinstance(m, Linear)]
    formats = Counter(f"{layer.format.name} ({layer.matmul.name})" for layer in layers)
    counts = ", ".join(f"{count} {name}" for name, count in formats.items())
    text = "Loaded %s from %s, computing in %s; weights: %s"
    log.info(text, info.label, info.path.name, compute_dtype, counts)
    return model.eval()


def check_compute_dtype(dtype: torch.dtype | None) -> None:
    """Refuses dtypes that no block can compute in.

    Raises:
        SettingsError: for anything but fp32, bf16, fp16 and None.
    """
    if dtype is not None and dtype not in COMPUTE_DTYPES:
        raise SettingsError(
            f"The precision cannot be used. Got {dtype}, need torch.float32, torch.bfloat16 or "
            "torch.float16. Quantized files keep their storage format with any of these."
        )


def default_dtype(info: CheckpointInfo) -> torch.dtype:
    """Returns the dtype to compute in: that of most weights, bf16 if those are quantized."""
    most = info.formats[0]
    if most.is_quantized:
        return torch.bfloat16
    return most.dtype if most.dtype in COMPUTE_DTYPES else torch.float32


def kept_dtype(name: str, module: nn.Module, stored: torch.dtype) -> torch.dtype:
    """Returns the dtype in which a tensor without scale is kept.

    Only the blocks' linear layers are cast to what they compute in, and not from one 16 bit format
    to the other: they stay views of the file and are cast at use, since an fp16 pair for bf16 would
    take 57 GB of RAM. All else computes in fp32 and is not rounded; fp8 survives only in linear
    layers.
    """
    if isinstance(module, Linear):
        if stored.itemsize == 1:
            return stored
        if name.startswith("blocks."):
            compute = module.compute_dtype
            return stored if stored.itemsize == compute.itemsize else compute
    return stored if stored in COMPUTE_DTYPES else torch.float32
