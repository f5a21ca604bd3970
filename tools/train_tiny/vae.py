"""Training of the VAEs: passes over whole batches with gradients, the loss, and the last touch.

Shape legend: B batch, T frames, H and W pixels, z latent channels.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from wan_model.config import VaeConfig
from wan_model.shapes import latent_frames
from wan_model.vae import FullVae
from wan_model.vae.feature_cache import FeatureCache

from .config import Recipe, VaeRecipe
from .data import Batch, Clips, Ring, generator
from .norms import fuse_norms
from .trainer import Metrics

VAL_CLIPS = 32
VAL_BATCH = 8
SMALLEST_LOG_VARIANCE, LARGEST_LOG_VARIANCE = -20.0, 10.0


def build_vae(config: VaeConfig, device: torch.device, dtype: torch.dtype) -> FullVae:
    """Returns an untrained VAE. Channels lie last in memory, as the matrix units want them."""
    vae = fuse_norms(FullVae(config))
    initialise(vae)
    vae.to(device, dtype)
    for parameter in vae.parameters():
        if parameter.ndim >= 4:
            layout = torch.channels_last_3d if parameter.ndim == 5 else torch.channels_last
            parameter.data = parameter.data.contiguous(memory_format=layout)
    return vae


@torch.no_grad()
def initialise(vae: FullVae) -> None:
    """Fills a VAE so that every convolution keeps the variance, and residual blocks do nothing."""
    for name, parameter in vae.named_parameters():
        if name.endswith(("bias", "residual.6.weight", "proj.weight")):
            nn.init.zeros_(parameter)
        elif name.endswith("weight"):
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)


def posterior(vae: FullVae, video: Tensor) -> tuple[Tensor, Tensor]:
    """Returns mean and log variance (B, z, T', H', W') in the encoder's own numbers, fp32.

    `vae.encode` runs item by item and four frames at a time, without gradients. Here all items and
    all frames after the first go through at once, which gives the same numbers: the first frame is
    the only one that the network treats differently.

    Args:
        vae: on the device of `video`.
        video: (B, 3, 4n+1, H, W) in [-1, 1].
    """
    cache, patch = FeatureCache(), vae.config.patch_size
    latents = []
    for chunk in _first_and_rest(video):
        x = rearrange(chunk, "b c t (h q) (w r) -> b (c r q) t h w", q=patch, r=patch)
        x = x.to(vae.dtype).contiguous(memory_format=torch.channels_last_3d)
        latents.append(vae.conv1(vae.encoder(x, cache)))
        cache.first = False
    mean, log_variance = torch.cat(latents, dim=2).float().chunk(2, dim=1)
    return mean, log_variance.clamp(SMALLEST_LOG_VARIANCE, LARGEST_LOG_VARIANCE)


def reconstruct(vae: FullVae, latent: Tensor) -> Tensor:
    """Returns the video fp32 (B, 3, T, H, W) of a latent in the encoder's own numbers.

    As `vae.decode`, in one pass and with gradients.
    """
    cache, patch = FeatureCache(), vae.config.patch_size
    frames = []
    for chunk in _first_and_rest(latent):
        z = chunk.to(vae.dtype).contiguous(memory_format=torch.channels_last_3d)
        x = vae.decoder(vae.conv2(z), cache)
        frames.append(rearrange(x, "b (c r q) t h w -> b c t (h q) (w r)", q=patch, r=patch))
        cache.first = False
    return torch.cat(frames, dim=2).float()


@torch.no_grad()
def encode(vae: FullVae, video: Tensor) -> Tensor:
    """Returns the normalised latent fp32 of a batch, as the transformers see it."""
    mean, std = latent_statistics(vae, video.device)
    return (posterior(vae, video)[0] - mean) / std


def latent_statistics(vae: FullVae, device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns the model's fixed mean and standard deviation, fp32 (z, 1, 1, 1)."""
    mean, std = torch.tensor((vae.latent_mean, vae.latent_std), device=device)
    return mean.view(-1, 1, 1, 1), std.view(-1, 1, 1, 1)


@torch.no_grad()
def normalise_latents(vae: FullVae, mean: Tensor, std: Tensor) -> None:
    """Rescales the latent channels so that they get the moments that the model is known for.

    An affine map of each channel is folded into the last convolution of the encoder, and its
    inverse into the first one of the decoder, so that reconstructions stay what they are.

    Args:
        vae: changed in place.
        mean: measured mean of each channel in the encoder's own numbers, (z,).
        std: likewise its standard deviation.
    """
    wanted_mean, wanted_std = (t.flatten() for t in latent_statistics(vae, mean.device))
    gain = wanted_std / std
    z_dim = vae.config.z_dim
    for conv in (vae.conv1, vae.conv2):
        conv.float()
    assert vae.conv1.bias is not None
    assert vae.conv2.bias is not None
    vae.conv1.weight[:z_dim] *= gain.view(-1, 1, 1, 1, 1)
    vae.conv1.bias[:z_dim] = (vae.conv1.bias[:z_dim] - mean) * gain + wanted_mean
    vae.conv1.bias[z_dim:] += 2 * gain.log()
    matrix = vae.conv2.weight.flatten(1)
    vae.conv2.bias += matrix @ (mean - wanted_mean / gain)
    vae.conv2.weight /= gain.view(1, -1, 1, 1, 1)


@torch.no_grad()
def latent_moments(vae: FullVae, videos: Iterator[Tensor]) -> tuple[Tensor, Tensor]:
    """Returns mean and standard deviation (z,) of each channel over batches of clips, fp32."""
    latents = [posterior(vae, video)[0].movedim(1, 0).flatten(1) for video in videos]
    values = torch.cat(latents, dim=1)
    return values.mean(dim=1), values.std(dim=1)


def psnr(video: Tensor, reference: Tensor) -> Tensor:
    """Returns the mean over clips of the PSNR in dB, for videos in [-1, 1] cut to that range."""
    error = (video.clamp(-1, 1) - reference).square().flatten(1).mean(dim=1)
    return (10 * torch.log10(4 / error)).mean()


class VaeStage:
    """Trains one VAE on clips."""

    def __init__(
        self,
        name: str,
        recipe: Recipe,
        device: torch.device,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        """Builds an untrained VAE that computes in `dtype`."""
        self.name, self.recipe, self.device = name, recipe, device
        self.own: VaeRecipe = recipe.vaes[name]
        self.optimisation = self.own.optimisation
        torch.manual_seed(generator(torch.device("cpu"), recipe.seed, name).initial_seed())
        self.model = build_vae(self.own.model, device, dtype)
        if self.own.init_from:
            for part in (self.model.encoder, self.model.conv1):
                part.requires_grad_(False)
        self.train_clips, self.val_clips = (
            Clips(recipe.clips, recipe.seed, split, device) for split in ("train", "val")
        )
        pool = recipe.pool
        self.ring = Ring(self._group, pool.vae_groups, pool.vae_refresh_steps)

    def batch(self, step: int) -> Batch:
        """Returns clips and noise for their latents."""
        rng = generator(self.device, self.recipe.seed, self.name, step)
        pool, size = self.ring.advance(step)["video"], self.optimisation.batch_size
        index = torch.randint(len(pool), (size,), generator=rng, device=self.device)
        video = pool[index].float() / 127.5 - 1
        frames, height, width = video.shape[2:]
        own, stride = self.own.model, self.own.model.spatial_stride
        shape = (len(video), own.z_dim, latent_frames(frames), height // stride, width // stride)
        noise = torch.randn(shape, generator=rng, device=self.device)
        return {"video": video, "noise": noise}

    def loss(self, batch: Batch) -> tuple[Tensor, Batch]:
        """Returns the loss of reconstructing a batch."""
        own, video = self.own, batch["video"]
        with torch.set_grad_enabled(not self.own.init_from):
            mean, log_variance = posterior(self.model, video)
        output = reconstruct(self.model, mean + (log_variance / 2).exp() * batch["noise"])
        mse = F.mse_loss(output, video)
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        loss = F.l1_loss(output, video) + own.mse_weight * mse + own.kl_weight * kl
        loss = loss + own.edge_weight * edge_error(output, video)
        return loss, {"mse": mse.detach(), "kl": kl.detach()}

    @torch.no_grad()
    def validate(self) -> Metrics:
        """Returns the PSNR of unseen clips."""
        values = []
        for video in self._videos(self.val_clips, VAL_CLIPS):
            latent, _ = posterior(self.model, video)
            values.append(psnr(reconstruct(self.model, latent), video))
        return {"psnr_db": float(torch.stack(values).mean())}

    def finish(self) -> dict[str, Tensor]:
        """Returns the state dict to be shipped, bf16: trained weights, latents normalised."""
        vae = self.model.float()
        if self.own.init_from:
            return {name: tensor.bfloat16() for name, tensor in vae.state_dict().items()}
        mean, std = latent_moments(vae, self._videos(self.train_clips, self.own.moment_clips))
        normalise_latents(vae, mean, std.clamp(min=self.own.smallest_std))
        return {name: tensor.bfloat16() for name, tensor in vae.state_dict().items()}

    def _group(self, number: int) -> Batch:
        """Returns one group of clips as bytes, to be small."""
        size = self.recipe.pool.group_size
        video = self.train_clips.render(self.train_clips.scenes(number * size, size))
        return {"video": ((video + 1) * 127.5).round().to(torch.uint8)}

    def _videos(self, clips: Clips, count: int) -> Iterator[Tensor]:
        for first in range(0, count, VAL_BATCH):
            yield clips.render(clips.scenes(first, min(VAL_BATCH, count - first)))


def edge_error(output: Tensor, video: Tensor) -> Tensor:
    """Returns the mean absolute error of the differences between neighbours in space and time."""
    error = output - video
    return sum((error.diff(dim=axis).abs().mean() for axis in (2, 3, 4)), error.new_zeros(()))


def _first_and_rest(x: Tensor) -> Iterator[Tensor]:
    """Yields the first frame of x (B, C, T, H, W), then all others, if there are any."""
    yield x[:, :, :1]
    if x.shape[2] > 1:
        yield x[:, :, 1:]
