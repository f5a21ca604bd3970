"""One transformer in training."""

from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor, nn

from wan_model.vae import WanVae

from .clip_store import training_clips
from .config import DiTRecipe, Recipe
from .data import Batch, Clips, generator
from .dit import (
    Examples,
    TrainingDiT,
    build_dit,
    flow_loss,
    sample_sigmas,
    training_config,
)
from .files import TrainingFolder
from .latents import LatentMaker
from .peers import ALONE, Peers
from .text_encoder import CaptionDropout, encode_text
from .tokenizer import Tokenizer
from .trainer import Metrics

VAL_GROUPS = 4
VAL_LEVELS = 16
"""Noise levels that each unseen clip is tried at."""


class DiTStage:
    """Trains one transformer on latents of clips."""

    def __init__(
        self,
        name: str,
        recipe: Recipe,
        device: torch.device,
        *,
        vae: WanVae,
        tokenizer: Tokenizer,
        text_encoder: nn.Module,
        folder: TrainingFolder,
        compute_dtype: torch.dtype = torch.bfloat16,
        peers: Peers = ALONE,
    ) -> None:
        """Builds an untrained transformer.

        Args:
            name: stage of the recipe.
            recipe: the recipe.
            device: of everything.
            vae: trained, on the device.
            tokenizer: trained.
            text_encoder: on the device; it stays as it is.
            compute_dtype: of the transformer's blocks.
            folder: where clips are kept for all stages.
            peers: processes that train it together, each on clips of its own.
        """
        self.name, self.recipe, self.device = name, recipe, device
        self.own: DiTRecipe = recipe.dits[name]
        self.optimisation = self.own.optimisation
        config = training_config(recipe.dit_config(name), tokenizer.max_tokens)
        torch.manual_seed(generator(torch.device("cpu"), recipe.seed, name).initial_seed())
        self.dit: TrainingDiT = build_dit(config, device, compute_dtype)
        self.text_encoder = text_encoder.requires_grad_(False)
        self.model = nn.ModuleDict({"dit": self.dit, "text_encoder": text_encoder})
        clips = replace(recipe.clips, size_px=self.own.size_px)
        self.dropout = CaptionDropout(recipe.guidance, tokenizer, device)
        self.makers = {
            split: LatentMaker(
                clips=Clips(clips, recipe.seed, split, device),
                vae=vae,
                tokenizer=tokenizer,
                kind=self.own.kind,
                captions=recipe.pool.captions,
                last_frame_probability=self.own.last_frame_probability,
            )
            for split in ("train", "val")
        }
        self.folder, self.peers = folder, peers

    @cached_property
    def clips(self) -> Batch:
        """All training clips, or this process' part of them."""
        vae_file = self.folder.weights(self.own.vae)
        count = self.recipe.pool.clips
        maker, folder = self.makers["train"], self.folder.clips
        return training_clips(maker, count, folder, vae_file, self.peers)

    def batch(self, step: int) -> Batch:
        """Returns a batch of examples, noise and noise levels."""
        rng = generator(self.device, self.recipe.seed, self.name, step, *self.peers.key)
        pool = self.clips
        size = self.optimisation.batch_size
        place = torch.randint(len(pool["latent"]), (size,), generator=rng, device=self.device)
        variant = torch.randint(
            self.recipe.pool.captions, (size,), generator=rng, device=self.device
        )
        batch = self._examples(pool, place, rng)
        batch["tokens"] = self.dropout(pool["tokens"][place, variant], rng)
        batch["sigma"] = sample_sigmas(size, self.own.sigma_range, self.own.shift, rng)
        return batch

    def loss(self, batch: Batch) -> tuple[Tensor, Batch]:
        """Returns the flow-matching loss of one batch."""
        return self._losses(batch).mean(), {}

    @torch.no_grad()
    def validate(self) -> Metrics:
        """Returns the loss on unseen clips, over the stage's own noise levels."""
        low, high = self.own.sigma_range
        levels = torch.linspace(low, high, VAL_LEVELS + 1).unfold(0, 2, 1).mean(dim=1)
        return {"loss": float(self.validation_losses(levels).mean())}

    @torch.no_grad()
    def validation_losses(self, levels: Tensor) -> Tensor:
        """Returns the loss on unseen clips at each noise level, fp32 (len(levels),) on the CPU.

        The clips and their noise are the same for every stage of a kind, so that experts can be
        compared with each other.
        """
        sums = torch.zeros(len(levels), device=self.device)
        # Compiled blocks would be compiled once more for this batch size.
        with torch.compiler.set_stance("force_eager"):
            self._add_losses(levels, sums)
        return (sums / VAL_GROUPS).cpu()

    def _add_losses(self, levels: Tensor, sums: Tensor) -> None:
        size = self.recipe.pool.group_size
        for group in range(VAL_GROUPS):
            pool = self.makers["val"].group(group, size)
            rng = generator(self.device, self.recipe.seed, "val", group)
            batch = self._examples(pool, torch.arange(size, device=self.device), rng)
            batch["tokens"] = pool["tokens"][:, 0]
            for number, level in enumerate(levels.tolist()):
                batch["sigma"] = torch.full((size,), level, device=self.device)
                sums[number] += self._losses(batch).mean()

    def _examples(self, pool: Batch, place: Tensor, rng: torch.Generator) -> Batch:
        """Returns examples of the pool by their places, and noise for them."""
        latent = pool["latent"][place].float()
        noise = torch.randn(latent.shape, generator=rng, device=self.device)
        batch = {"latent": latent, "noise": noise}
        if "cond" in pool:
            batch["cond"] = pool["cond"][place].float()
        if self.own.kind == "ti2v":
            chance = torch.rand(len(place), generator=rng, device=self.device)
            batch["given"] = chance < self.own.image_probability
        return batch

    def _losses(self, batch: Batch) -> Tensor:
        examples = Examples(
            latent=batch["latent"],
            text=encode_text(self.text_encoder, batch["tokens"]),
            cond=batch.get("cond"),
            given=batch.get("given"),
        )
        return flow_loss(self.dit, examples, batch["sigma"], batch["noise"])
