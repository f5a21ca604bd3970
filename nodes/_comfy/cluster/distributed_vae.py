"""A VAE whose rows the processes of distributed MODELs share."""

from typing import Any

import comfy.sd

from ....wan_model.errors import PairingError
from ....wan_model.vae.preview import PreviewVaeConfig
from ..vae.comfy_vae import WanDuetVAE
from ..vae.remote_vae import RemoteWanVae
from .remote_pool import RemotePool


class DistributedVAE(WanDuetVAE):
    """A VAE object that every core node takes, and that needs no memory here."""

    def __init__(self, vae: RemoteWanVae) -> None:
        super().__init__(vae)
        self.memory_used_encode = self.memory_used_decode = lambda shape, dtype: 0  # noqa: ARG005

    def get_sd(self) -> Any:
        """Has nothing to save.

        Raises:
            PairingError: always.
        """
        raise PairingError(
            "A distributed VAE cannot be saved. Got one whose weights are in other processes, need "
            "one of the loader. Connect that to the node that saves."
        )


def distributed_vae(vae: comfy.sd.VAE, pool: RemotePool) -> DistributedVAE:
    """Returns a VAE of the same file whose rows are shared.

    Raises:
        PairingError: if it is none of our loader, or one for previews.
    """
    config = vae.first_stage_model.vae.config if isinstance(vae, WanDuetVAE) else None
    if not isinstance(vae, WanDuetVAE) or isinstance(vae, DistributedVAE) or not vae.file:
        raise PairingError(
            "This VAE cannot be distributed. Got one of another node, need one of 'Wan 2.2 Load "
            "VAE'. Connect that, or none: decoding then happens on one GPU."
        )
    if isinstance(config, PreviewVaeConfig):
        raise PairingError(
            "A preview VAE has no rows to share. Got one, need a full Wan VAE. It is fast on one "
            "GPU: connect it to the node that decodes."
        )
    inner = vae.first_stage_model.vae
    return DistributedVAE(RemoteWanVae(inner.config, inner.dtype, vae.file, pool))
