"""A VAE whose frames the ranks share by rows."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import SettingsError
from ..loading import load_vae
from ..parallel import Team, decode_own_rows, encode_rows
from ..parallel.rows import REACH
from ..parallel.team import shares
from ..vae import estimate_peak_bytes
from ..vae.full import FullVae


@dataclass(frozen=True)
class SharedVae:
    """One rank of it."""

    vae: FullVae
    team: Team

    @classmethod
    def of_file(cls, file: str, dtype: str, device: torch.device, team: Team) -> "SharedVae":
        """Loads a VAE.

        Args:
            file: of a full VAE.
            dtype: that it computes in, such as "bfloat16".
            device: that computes.
            team: shares the rows.

        Raises:
            CheckpointError: if it is not a healthy Wan VAE.
            SettingsError: for a preview VAE.
        """
        vae = load_vae(file, device=device, dtype=getattr(torch, dtype))
        if not isinstance(vae, FullVae):
            raise SettingsError(
                "A preview VAE has no rows to share. Got one, need a full Wan VAE. It is fast "
                "enough on one GPU: connect the loader's."
            )
        return cls(vae.requires_grad_(False), team)

    def decode(self, latent: Tensor) -> Tensor:
        """Returns this rank's rows of a video (1, 3, T, H, W), in host memory.

        Args:
            latent: (1, z, T', H', W') in the encoder's own scale.
        """
        rows = decode_own_rows(self.vae, latent.to(self.vae.device), self.team, normalized=False)
        return rows.cpu()

    def encode(self, video: Tensor) -> Tensor:
        """Returns the latent (1, z, T', H', W'), in host memory and the encoder's own scale.

        Args:
            video: (1, 3, 4n+1, H, W) in [-1, 1].
        """
        return encode_rows(self.vae, video, self.team, normalized=False).cpu()

    def peak_bytes(self, operation: str, height: int, width: int) -> int:
        """Returns what a pass takes on the device of a rank, for a video's size in pixels.

        Of its rows, and of those of its neighbours that it computes as well.
        """
        what = "decode" if operation == "decode" else "encode"
        config = self.vae.config
        own = shares(height // config.spatial_stride, self.team.ranks)[0] * config.spatial_stride
        rows = min(height, own + 2 * REACH * config.patch_size)
        return estimate_peak_bytes(config, what, rows, width, self.vae.dtype)
