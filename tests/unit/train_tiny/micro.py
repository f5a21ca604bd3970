"""The recipe at a size that trains for a few steps in seconds."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from tools.train_tiny import clip_store, dit_stage, text_stage, vae
from tools.train_tiny.config import (
    ClipRecipe,
    DiTSize,
    Optimisation,
    PoolRecipe,
    Recipe,
    TextRecipe,
)
from tools.train_tiny.files import TrainingFolder
from tools.train_tiny.runs import run_stage
from tools.train_tiny.trainer import Progress

CPU = torch.device("cpu")
STEPS = 4
MICRO_SIZE = DiTSize(dim=128, ffn_dim=64, layers=1)
CLIPS_AT_ONCE = 8


def micro_recipe() -> Recipe:
    """Returns the real recipe with everything small."""
    real = Recipe()
    optimisation = Optimisation(
        steps=STEPS,
        seconds=60,
        batch_size=4,
        learning_rate=2e-3,
        matrix_learning_rate=4e-3,
        warmup_steps=2,
        ema_decay=0.5,
    )
    vaes = {
        name: replace(
            vae,
            model=replace(vae.model, encoder_dim=4, decoder_dim=4),
            optimisation=replace(optimisation, batch_size=2),
            moment_clips=4,
        )
        for name, vae in real.vaes.items()
    }
    dits = {
        name: replace(
            dit, optimisation=optimisation, size_px=min(32, dit.size_px // 4), size=MICRO_SIZE
        )
        for name, dit in real.dits.items()
    }
    return Recipe(
        seed=7,
        clips=ClipRecipe(frames=5, size_px=32),
        text=TextRecipe(
            vocabulary=420,
            corpus_captions=300,
            negative_repeats=50,
            dim=64,
            heads=1,
            ffn_dim=32,
            layers=2,
            max_tokens=200,
            question_scenes=40,
            optimisation=optimisation,
        ),
        pool=PoolRecipe(clips=16, captions=2, group_size=2, vae_groups=2, vae_refresh_steps=2),
        vaes=vaes,
        dits=dits,
    )


def run(stage: str, folder: TrainingFolder, recipe: Recipe, **options: Any) -> Progress:
    """Runs a stage on the CPU with the recipe's own schedule, validated on a few clips."""
    options = {"steps": STEPS} | options
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clip_store, "GROUP", CLIPS_AT_ONCE)
        patch.setattr(dit_stage, "VAL_GROUPS", 1)
        patch.setattr(dit_stage, "VAL_LEVELS", 3)
        patch.setattr(vae, "VAL_CLIPS", 2)
        patch.setattr(text_stage, "VAL_CAPTIONS", 16)
        return run_stage(stage, recipe, folder, device=CPU, seconds=300, **options)
