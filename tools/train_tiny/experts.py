"""Are two experts better than one model of the same active size? Measured on the tiny T2V models.

One model and two experts begin with the same weights and are trained equally long each. Compared
are the loss on unseen clips, at noise levels as they are drawn in training, and clips of the
scoring prompts.
"""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from wan_model.config import NEGATIVE_PROMPT, OFFICIAL
from wan_model.sampling import shift_sigma
from wan_model.shapes import latent_frames

from ..tiny_generate import Guided, clip_noise, decode, sample
from ..tiny_score import Rates, Score, rates, score
from .config import Recipe
from .dit import start_from
from .dit_stage import DiTStage
from .files import TrainingFolder
from .runs import open_dit_stage
from .scenes import Prompt, score_prompts
from .text_encoder import encode_text

log = logging.getLogger(__name__)

SINGLE, HIGH, LOW = "t2v_single", "t2v_high", "t2v_low"
BATCH = 14
"""Clips made at once."""


@dataclass(frozen=True)
class Arrangement:
    """Which model runs on which side of which boundary."""

    name: str
    high: str
    """Stage of the model for noise levels at the boundary and above."""
    low: str
    boundary: float = OFFICIAL["t2v"].boundary or 0.0


ARRANGEMENTS = (
    Arrangement("one model", SINGLE, SINGLE),
    Arrangement("two experts", HIGH, LOW),
    Arrangement("two experts, swapped", LOW, HIGH),
    Arrangement("boundary 0.5", HIGH, LOW, 0.5),
    Arrangement("boundary 0.97", HIGH, LOW, 0.97),
)


@dataclass(frozen=True)
class Outcome:
    """What came of one arrangement."""

    arrangement: Arrangement
    loss: float
    """Expected over the noise levels of training."""
    rates: Rates
    """Of the scoring prompts."""


def compare_experts(
    recipe: Recipe,
    folder: TrainingFolder,
    *,
    device: torch.device,
    steps: int = 20,
    seeds: int = 1,
    levels: int = 12,
    prompts: Sequence[Prompt] | None = None,
) -> list[Outcome]:
    """Measures all arrangements; writes experts.json and experts.md to the folder.

    Args:
        recipe: the recipe.
        folder: with the weights of the two experts and the one model.
        device: where to compute.
        steps: of the official solver, with the official shift and guidance.
        seeds: clips of each prompt.
        levels: noise levels at which the loss is measured; a multiple of 12 has the boundaries
            0.5 and 0.875 between two of them.
        prompts: None: all that the tiny models are scored by.

    Raises:
        FileNotFoundError: if a stage has not been run.
    """
    stages = {name: _open(name, recipe, folder, device) for name in (SINGLE, HIGH, LOW)}
    shift = recipe.dits[SINGLE].shift
    sigmas = training_levels(levels, shift)
    losses = {}
    for name, stage in stages.items():
        start = time.monotonic()
        losses[name] = stage.validation_losses(sigmas)
        log.info("%s: loss at %d levels in %.0f s", name, levels, time.monotonic() - start)
    outcomes = []
    for arrangement in ARRANGEMENTS:
        start = time.monotonic()
        scores = prompt_scores(stages, arrangement, prompts or score_prompts(), steps, seeds)
        loss = expected_loss(losses[arrangement.high], losses[arrangement.low], arrangement, shift)
        outcomes.append(Outcome(arrangement, loss, rates(scores)))
        log.info("%s: clips in %.0f s", arrangement.name, time.monotonic() - start)
    _write(outcomes, sigmas, losses, {"steps": steps, "seeds": seeds, "shift": shift}, folder.path)
    return outcomes


def training_levels(count: int, shift: float) -> Tensor:
    """Returns noise levels fp32 (N,): the middles of N equally likely parts of training's."""
    return torch.tensor([shift_sigma((i + 0.5) / count, shift) for i in range(count)])


def expected_loss(high: Tensor, low: Tensor, arrangement: Arrangement, shift: float) -> float:
    """Returns the mean loss over the noise levels of training.

    Args:
        high: losses (N,) at `training_levels` of the model above the boundary.
        low: likewise of the model below; the part that the boundary cuts counts for both.
        arrangement: gives the boundary.
        shift: that of the levels.
    """
    cut = len(low) * shift_sigma(arrangement.boundary, 1 / shift)
    is_low = (cut - torch.arange(len(low))).clamp(0, 1)
    return float(torch.lerp(high, low, is_low).mean())


@torch.no_grad()
def prompt_scores(
    stages: Mapping[str, DiTStage],
    arrangement: Arrangement,
    prompts: Sequence[Prompt],
    steps: int,
    seeds: int,
) -> list[Score]:
    """Returns the scores of clips, of all prompts for each seed.

    Every arrangement begins with the same noise. Guidance follows the model that runs, as the
    sampler does it.
    """
    high, low = stages[arrangement.high], stages[arrangement.low]
    settings = replace(OFFICIAL["t2v"], boundary=arrangement.boundary)
    maker, clips = high.makers["val"], high.recipe.clips
    side = clips.size_px // maker.vae.config.spatial_stride
    shape = (maker.vae.config.z_dim, latent_frames(clips.frames), side, side)
    scores = []
    for seed in range(seeds):
        for first in range(0, len(prompts), BATCH):
            some = prompts[first : first + BATCH]
            texts = [prompt.text for prompt in some]
            tokens = maker.tokenizer.batch([*texts, *[NEGATIVE_PROMPT] * len(some)])
            guided = Guided(text=encode_text(high.text_encoder, tokens.to(high.device)))
            noise = torch.stack([clip_noise(text, seed, shape) for text in texts]).to(high.device)
            latents = sample((high.dit, low.dit), guided, noise, settings, steps)
            videos = decode(maker.vae, latents)
            scores += [score(video, prompt) for video, prompt in zip(videos, some, strict=True)]
    return scores


def markdown(outcomes: Sequence[Outcome]) -> str:
    """Returns a table with one row for each arrangement."""
    head = ("", "boundary", "loss", "colour", "shape", "motion", "count", "all right")
    rows = [head, ("---",) + ("---:",) * (len(head) - 1)]
    for outcome in outcomes:
        found, arrangement = outcome.rates, outcome.arrangement
        shares = (found.colour, found.shape, found.motion, found.count, found.all)
        boundary = "" if arrangement.high == arrangement.low else f"{arrangement.boundary:g}"
        cells = (boundary, f"{outcome.loss:.4f}", *(f"{100 * share:.1f} %" for share in shares))
        rows.append((arrangement.name, *cells))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def _open(name: str, recipe: Recipe, folder: TrainingFolder, device: torch.device) -> DiTStage:
    """Returns a trained stage."""
    stage = open_dit_stage(name, recipe, folder, device)
    start_from(stage.dit, folder.read_weights(name))
    return stage


def _write(
    outcomes: Sequence[Outcome],
    sigmas: Tensor,
    losses: Mapping[str, Tensor],
    settings: Mapping[str, float],
    folder: Path,
) -> None:
    curves = {name: values.tolist() for name, values in losses.items()}
    result = {
        "settings": settings,
        "sigmas": sigmas.tolist(),
        "losses": curves,
        "outcomes": [asdict(outcome) for outcome in outcomes],
    }
    (folder / "experts.json").write_text(json.dumps(result, indent=1) + "\n")
    (folder / "experts.md").write_text(markdown(outcomes))
