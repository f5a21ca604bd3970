"""Loads a VAE, full or for previews."""

import logging

import torch

from ..config import VaeConfig
from ..vae import WanVae
from .checkpoint import CheckpointLike, open_checkpoint
from .dit import check_compute_dtype, default_dtype
from .strict import check_tensors, fill

log = logging.getLogger(__name__)


def load_vae(
    path: CheckpointLike,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> WanVae:
    """Loads the Wan2.1 or the Wan2.2 VAE, or a preview VAE of either, whichever the file holds.

    Args:
        path: a .safetensors file, a shard or the index of a sharded one, or a folder with one; or
            a checkpoint that is open already.
        device: where the weights go.
        dtype: of the weights and the arithmetic. None: that of the file.

    Raises:
        CheckpointError: for a file that is damaged, unsafe, incomplete, or of another model.
    """
    check_compute_dtype(dtype)
    checkpoint = open_checkpoint(path, "vae")
    config, build = checkpoint.require(VaeConfig), checkpoint.kind.build
    assert build is not None, "VAEs are built from their sizes alone"
    weight_dtype = dtype or default_dtype(checkpoint.info)
    with torch.device("meta"):
        vae = build(config)
    check_tensors(vae, checkpoint)
    fill(vae, checkpoint, torch.device(device), lambda *_: weight_dtype)
    vae.arrange_weights()
    log.info("Loaded %s from %s as %s", checkpoint.info.label, checkpoint.path.name, weight_dtype)
    return vae.eval()
