"""A transformer of toy size and inputs for it, shared by the tests of this folder."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.parity.recipe import fill
from wan_model.attention import resolve
from wan_model.config import DiTConfig, Precision
from wan_model.dit import WanDiT, run_in_order
from wan_model.dit.attention_layers import TextAttention
from wan_model.dit.block_runner import BlockFn
from wan_model.dit.inputs import BlockInputs

CHANNELS = {"t2v": (16, 16), "i2v": (36, 16), "ti2v": (48, 48)}
SIZE = (3, 6, 8)
FRAMES, TOKENS_PER_FRAME = 3, 12
TOKENS = FRAMES * TOKENS_PER_FRAME

FP32 = Precision()
BF16 = Precision(compute_dtype=torch.bfloat16)


def make_dit(kind: str = "t2v", precision: Precision = FP32, **sizes: int) -> WanDiT:
    """Returns a filled model of `kind`; `sizes` replace those of its configuration."""
    in_channels, out_channels = CHANNELS[kind]
    config = DiTConfig(
        dim=48,
        ffn_dim=80,
        num_heads=2,
        num_layers=2,
        in_channels=in_channels,
        out_channels=out_channels,
        text_dim=20,
        freq_dim=32,
        text_len=16,
    )
    config = replace(config, **sizes)  # pyright: ignore[reportArgumentType]
    model = WanDiT(config, precision=precision, attention=resolve("sdpa"))
    fill(model)
    return model


class Inputs(NamedTuple):
    """Arguments of `forward`, in its order."""

    latent: Tensor
    timestep: Tensor
    text: Tensor
    cond: Tensor | None


def make_inputs(model: WanDiT, batch: int = 1, seed: int = 0) -> Inputs:
    """Returns random inputs with one timestep per sample."""
    config = model.config
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> Tensor:
        return torch.randn(batch, *shape, generator=generator)

    return Inputs(
        latent=randn(config.out_channels, *SIZE),
        timestep=torch.tensor([637.0, 902.5, 14.0][:batch]),
        text=randn(7, config.text_dim),
        cond=randn(config.cond_channels, *SIZE) if config.cond_channels else None,
    )


def first_frame_clean(batch: int) -> Tensor:
    """Returns timesteps (B, T) as of the 5B model with a first image: 0 for its frame."""
    timestep = make_inputs(make_dit(), batch).timestep.unsqueeze(1).repeat(1, FRAMES)
    timestep[:, 0] = 0
    return timestep


def per_token(per_frame: Tensor) -> Tensor:
    """Returns timesteps (B, L) for timesteps (B, T)."""
    return per_frame.repeat_interleave(TOKENS_PER_FRAME, dim=1)


def velocity(model: WanDiT, inputs: Inputs, attention: TextAttention | None = None) -> Tensor:
    """Returns what a pass predicts, with another attention to text than to one prompt."""

    def run(blocks: Iterable[BlockFn], x: Tensor, given: BlockInputs) -> Tensor:
        given = given if attention is None else replace(given, text_attention=attention)
        return run_in_order(blocks, x, given)

    return model.velocity(*inputs, run)


@dataclass(frozen=True)
class Allocation:
    """One new piece of memory: which operation made it, its first view's shape, its bytes."""

    operation: str
    shape: tuple[int, ...]
    numel: int
    size_bytes: int


@dataclass
class MemoryRecorder(TorchDispatchMode):
    """Records every tensor that operations allocate while active, and the most bytes alive.

    Tensors made before (weights, inputs) do not count. Works on meta tensors too, so that a model
    of full size can be measured without its memory.
    """

    peak_bytes: int = 0
    allocations: list[Allocation] = field(default_factory=list)
    live: dict[int, tuple[StorageWeakRef, int]] = field(default_factory=dict)
    device: str = "cpu"

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs one operation and counts the storages that only its outputs have."""
        inputs = {id_of(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if not isinstance(tensor, Tensor) or tensor.device.type != self.device:
                continue
            if id_of(tensor) not in inputs:
                self._count(str(func), tensor)
        return out

    def _count(self, operation: str, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        self.live = {k: entry for k, entry in self.live.items() if not entry[0].expired()}
        self.live[id_of(tensor)] = (StorageWeakRef(storage), storage.nbytes())
        self.peak_bytes = max(self.peak_bytes, sum(size for _, size in self.live.values()))
        self.allocations.append(
            Allocation(operation, tuple(tensor.shape), tensor.numel(), storage.nbytes())
        )


def id_of(tensor: Tensor) -> int:
    """Returns what identifies the memory behind a tensor while it is alive."""
    return tensor.untyped_storage()._cdata
