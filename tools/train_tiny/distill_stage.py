"""One four-step LoRA in training: distillation by regression along the teacher's trajectories.

From the same noise the guided teacher, a solver of many steps, always comes to the same clip, so
a step of the student has one right answer: the mean velocity of the teacher over that step, of
which the squared error is the loss. The student's second step starts where its own first one led,
and the low-noise student where the high-noise one did, and the teacher goes on from there: errors
of one step are put right by the next, and not added up.

Sources: knowledge distillation of the sampler's map, Luhman and Luhman, arXiv:2101.02388;
progressive distillation, Salimans and Ho, arXiv:2202.00512; asking the teacher about the states
that the student itself reaches, Ross et al. (DAgger), arXiv:1011.0686.

Shape legend: B examples, C latent channels, T latent frames, S text tokens.
"""

from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from wan_model.config import NEGATIVE_PROMPT, TIMESTEPS
from wan_model.shapes import latent_frames

from .clip_store import training_clips
from .data import Batch, Ring, generator
from .distill_config import DistillRecipe
from .distill_legs import Teacher, Told, only_told, run_student
from .distill_lora import freeze, give_loras
from .dit_stage import DiTStage
from .files import State
from .text_encoder import encode_text
from .trainer import Metrics


class DistillStage:
    """Trains a LoRA on one expert, for the two steps of four that the expert takes."""

    def __init__(
        self,
        own: DistillRecipe,
        experts: tuple[DiTStage, DiTStage],
        student: DiTStage,
        before: DiTStage | None,
        begin: State | None = None,
    ) -> None:
        """Puts a LoRA on the student, which alone is trained.

        Args:
            own: the recipe.
            experts: the teacher, with its weights.
            student: another copy of the expert that is distilled.
            before: for the low-noise expert, the high-noise one with its LoRA.
            begin: a LoRA to begin with.
        """
        self.own, self.name, self.optimisation = own, own.name, own.optimisation
        self.base, self.before = experts[0], before
        self.device = student.device
        for stage in (*experts, student):
            freeze(stage.dit)
        torch.manual_seed(generator(torch.device("cpu"), own.name).initial_seed())
        give_loras(student.dit, own.rank, begin)
        self.dit = student.dit
        self.model = nn.ModuleDict({"dit": student.dit})
        self.teacher = Teacher(own.kind, (experts[0].dit, experts[1].dit))
        self.makers = {split: only_told(maker) for split, maker in self.base.makers.items()}
        self.ring = Ring(self._group, own.groups, own.refresh_steps)

    @cached_property
    def clips(self) -> Batch:
        """What the transformers are told of all training clips."""
        vae_file = self.base.folder.weights(self.base.own.vae)
        folder = self.base.folder.clips / "told"
        return training_clips(self.makers["train"], self.own.clips, folder, vae_file)

    @cached_property
    def negative(self) -> Tensor:
        """Embedding of the official negative prompt, fp32 (1, S, text_dim)."""
        tokens = self.makers["train"].tokenizer.batch([NEGATIVE_PROMPT])
        with torch.no_grad():
            return encode_text(self.base.text_encoder, tokens.to(self.device))

    def batch(self, step: int) -> Batch:
        """Returns examples of steps, and what the teacher makes of them."""
        pool = self.ring.advance(step)
        rng = generator(self.device, self.name, "batch", step)
        size = self.optimisation.batch_size
        place = torch.randint(len(pool["x"]), (size,), generator=rng, device=self.device)
        batch = {name: tensor[place] for name, tensor in pool.items()}
        if "cond" in self.clips:
            batch["cond"] = self.clips["cond"][batch["clip"]].float()
        return batch

    def loss(self, batch: Batch) -> tuple[Tensor, Batch]:
        """Returns the squared error of the velocity, and that of each of the two steps."""
        text = encode_text(self.base.text_encoder, batch["tokens"])
        velocity = self.dit(batch["x"], batch["sigma"] * TIMESTEPS, text, batch.get("cond"))
        errors = (velocity.float() - batch["velocity"]).square().flatten(1).mean(dim=1)
        second = batch["second"].float()
        parts = {
            "first": (errors * (1 - second)).sum() / (1 - second).sum().clamp(min=1),
            "second": (errors * second).sum() / second.sum().clamp(min=1),
        }
        return errors.mean(), {name: part.detach() for name, part in parts.items()}

    @torch.no_grad()
    def validate(self) -> Metrics:
        """Returns the loss of unseen captions and noise, and how far the two steps lead astray."""
        sums: dict[str, float] = {}
        with torch.compiler.set_stance("force_eager"):
            for number in range(self.own.val_groups):
                for name, value in self._validate_group(number).items():
                    sums[name] = sums.get(name, 0.0) + value / self.own.val_groups
        return sums

    def _validate_group(self, number: int) -> Metrics:
        size = self.own.group_size
        pool = self.makers["val"].group(number, size)
        rng = generator(self.device, self.name, "val", number)
        told = self._told(pool["tokens"][:, 0], pool.get("cond"))
        start = self._start(size, rng, told)
        first, middle, end = self._levels
        wanted = self._teach(start, 0, told)
        wanted = self._teach(wanted, 1, told)
        led = run_student(self.dit, start, self._levels, told)
        once = run_student(self.dit, start, (first, middle), told)
        second = self._teach(once, 1, told)
        return {
            "loss": float((led - second).square().mean() / (middle - end) ** 2),
            "astray": float((led - wanted).square().mean().sqrt()),
        }

    @property
    def _levels(self) -> tuple[float, float, float]:
        start = self.own.first_step
        first, middle, end = self.own.levels[start : start + 3]
        return first, middle, end

    def _told(self, tokens: Tensor, cond: Tensor | None) -> Told:
        text = encode_text(self.base.text_encoder, tokens)
        return Told(text, self.negative, None if cond is None else cond.float())

    def _start(self, size: int, rng: torch.Generator, told: Told) -> Tensor:
        """Returns samples at the first level: noise, or what the high-noise student makes of it."""
        maker = self.makers["train"]
        vae, clips = maker.vae.config, maker.clips.recipe
        side = clips.size_px // vae.spatial_stride
        shape = (size, vae.z_dim, latent_frames(clips.frames), side, side)
        noise = torch.randn(shape, generator=rng, device=self.device)
        if self.before is None:
            return noise
        return run_student(self.before.dit, noise, self.own.levels[: self.own.first_step + 1], told)

    def _teach(self, x: Tensor, leg: int, told: Told) -> Tensor:
        levels, steps = self._levels, self.own.solver_steps[self.own.first_step + leg]
        return self.teacher.follow(x, levels[leg], levels[leg + 1], steps, told)

    @torch.no_grad()
    def _group(self, number: int) -> Batch:
        """Returns both steps of some trajectories.

        Those made before training have no student to follow, so that the teacher leads on.
        """
        own, clips = self.own, self.clips
        rng = generator(self.device, self.name, "group", number)
        options: dict[str, Any] = {"generator": rng, "device": self.device}
        clip = torch.randint(len(clips["tokens"]), (own.group_size,), **options)
        variant = torch.randint(clips["tokens"].shape[1], (own.group_size,), **options)
        tokens = clips["tokens"][clip, variant]
        told = self._told(tokens, clips["cond"][clip] if "cond" in clips else None)
        start = self._start(own.group_size, rng, told)
        first, middle, end = self._levels
        taught = self._teach(start, 0, told)
        reached = taught
        if number >= own.groups:
            reached = run_student(self.dit, start, (first, middle), told)
        ended = self._teach(reached, 1, told)
        sigma = torch.tensor([first, middle], device=self.device)
        return {
            "x": torch.cat((start, reached)),
            "velocity": torch.cat(
                ((taught - start) / (middle - first), (ended - reached) / (end - middle))
            ),
            "sigma": sigma.repeat_interleave(own.group_size),
            "second": torch.tensor([0, 1], device=self.device).repeat_interleave(own.group_size),
            "tokens": tokens.repeat(2, 1),
            "clip": clip.repeat(2),
        }
