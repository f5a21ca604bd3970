"""All clips that transformers are trained on, encoded once and kept in a file.

Stages of a kind see the same clips, so whoever comes first makes them. Many are needed: from 4096
clips at a time, one replaced after each step, the experts learned by heart what they saw.
"""

import hashlib
import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .data import Batch
from .latents import LatentMaker
from .peers import ALONE, Peers
from .scenes import Scene

log = logging.getLogger(__name__)

GROUP = 64
"""Clips rendered and encoded at once."""

WORKERS = 12
"""Processes at most that describe clips while the device encodes others."""


@dataclass(frozen=True)
class _Descriptions(Dataset[tuple[list[Scene], Tensor]]):
    """Groups of scenes and captions by number."""

    maker: LatentMaker
    first: int
    groups: int

    def __len__(self) -> int:
        return self.groups

    def __getitem__(self, number: int) -> tuple[list[Scene], Tensor]:
        return self.maker.describe(self.first + number, GROUP)


def training_clips(
    maker: LatentMaker, count: int, folder: Path, vae_file: Path, peers: Peers = ALONE
) -> Batch:
    """Returns clips 0 to count - 1, from a file of the folder if they have been made before.

    Each of several processes gets its own part of them.

    Args:
        maker: makes them.
        count: rounded up to whole groups.
        folder: where such files are kept.
        vae_file: of the maker's VAE; another one makes other latents.
        peers: processes that train together.

    Returns:
        What `LatentMaker.group` returns, on its device; floating-point tensors as bf16.
    """
    groups = -(-count // (GROUP * peers.count))
    first = peers.rank * groups
    path = folder / f"{_fingerprint(maker, first, groups, vae_file)}.safetensors"
    device = maker.clips.device
    if path.is_file():
        return load_file(path, device=str(device))
    start = time.monotonic()
    batch = _make(maker, first, groups)
    folder.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    save_file(batch, part)
    part.replace(path)
    log.info("%d clips made in %.0f s", groups * GROUP, time.monotonic() - start)
    return batch


def _make(maker: LatentMaker, first: int, groups: int) -> Batch:
    workers = min(WORKERS, groups // 8, (os.cpu_count() or 1) - 1)
    described = DataLoader(
        _Descriptions(maker, first, groups), batch_size=None, num_workers=workers
    )
    tensors: Batch = {}
    for number, (scenes, tokens) in enumerate(described):
        for name, part in maker.encode(first + number, scenes, tokens).items():
            if name not in tensors:
                dtype = torch.bfloat16 if part.is_floating_point() else part.dtype
                shape = (groups * GROUP, *part.shape[1:])
                tensors[name] = torch.empty(shape, dtype=dtype, device=part.device)
            tensors[name][number * GROUP : (number + 1) * GROUP] = part
    return tensors


def _fingerprint(maker: LatentMaker, first: int, groups: int, vae_file: Path) -> str:
    """Returns a name for what the clips depend on."""
    clips = maker.clips
    settings = (clips.recipe, clips.seed, clips.split, maker.kind, maker.captions)
    last = maker.last_frame_probability if maker.kind == "i2v" else None
    digest = hashlib.sha256(repr((*settings, last, first, groups)).encode())
    digest.update(maker.tokenizer.model)
    digest.update(vae_file.read_bytes())
    return f"{maker.kind}-{clips.recipe.size_px}px-{digest.hexdigest()[:12]}"
