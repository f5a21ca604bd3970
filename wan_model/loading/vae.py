"""Loads a VAE, full or for previews."""

import logging
from os import PathLike

import torch

from ..config import VaeConfig
from ..vae import WanVae, build_vae
from ..vae.preview import PreviewVaeConfig, build_preview_vae
from .checkpoint import open_checkpoint
from .detect import describe, require
from .dit import check_compute_dtype
from .formats import default_dtype
from .strict import check_tensors, fill

log = logging.getLogger(__name__)


def load_vae(
    path: str | PathLike[str],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> WanVae:
    """Loads the Wan2.1 or the Wan2.2 VAE, or a preview VAE of either, whichever the file holds.

    Args:
        path: a .safetensors file, a shard or the index of a sharded one, or a folder with one.
        device: where the weights go.
        dtype: of the weights and the arithmetic. None: that of the file.

    Raises:
        CheckpointError: for a file that is damaged, unsafe, incomplete, or of another model.
    """
    check_compute_dtype(dtype)
    checkpoint = open_checkpoint(path)
    info = describe(checkpoint)
    config = require(info, VaeConfig)
    weight_dtype = dtype or default_dtype(checkpoint.tensors)
    with torch.device("meta"):
        preview = isinstance(config, PreviewVaeConfig)
        vae = build_preview_vae(config) if preview else build_vae(config)
    check_tensors(vae, checkpoint, info)
    fill(vae, checkpoint, torch.device(device), lambda *_: weight_dtype)
    vae.arrange_weights()
    log.info("Loaded %s from %s as %s", info.label, info.path.name, weight_dtype)
    return vae.eval()
