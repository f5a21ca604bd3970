"""Runs one stage of the distillation, and writes the LoRAs as they are shipped."""

import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from .config import Recipe
from .distill_config import Distillation, DistillRecipe
from .distill_lora import file_state, freeze, give_loras
from .distill_stage import DistillStage
from .dit import start_from
from .dit_stage import DiTStage
from .files import TrainingFolder
from .runs import open_dit_stage
from .trainer import Progress, Trainer

FILE_NAME = "wan22-tiny-{kind}-lightning-{expert}-noise"
"""Says what settings it wants, what kind of model it is for, and which expert."""


def run_distillation(
    name: str,
    recipe: Recipe,
    distillation: Distillation,
    folder: TrainingFolder,
    *,
    device: torch.device,
    seconds: float | None = None,
    steps: int | None = None,
    stop_after: int | None = None,
    init_from: str | None = None,
    compile_blocks: bool = False,
) -> Progress:
    """Trains a LoRA, or goes on with it, and writes it; arguments as `runs.run_stage` has them.

    Raises:
        FileNotFoundError: if the experts, or for low noise the high-noise LoRA, are missing.
    """
    start = time.monotonic()
    own = distillation.stages[name]
    high, low = own.teachers
    kept = folder.state(name).is_file()
    student = _open(high if own.expert == "high" else low, recipe, folder, device)
    before = None
    if own.expert == "low":
        before = _open(high, recipe, folder, device)
        freeze(before.dit)
        give_loras(before.dit, own.rank, folder.read_weights(_partner(own, distillation).name))
    experts = _open(high, recipe, folder, device), _open(low, recipe, folder, device)
    begin = folder.read_weights(init_from) if init_from and not kept else None
    stage = DistillStage(own, experts, student, before, begin)
    if compile_blocks:
        for dit in (student.dit, *(e.dit for e in experts), *([before.dit] if before else [])):
            for block in dit.blocks:
                block.compile()
    trainer = Trainer(stage, folder.state(name), steps=steps)
    if kept:  # trajectories that are made again follow the student as it was
        trainer.weights.put(trainer.weights.current)
    left = (seconds or own.optimisation.seconds) - (time.monotonic() - start)
    progress = trainer.run(left, stop_after)
    folder.write_log(name, progress)
    state = {key.removeprefix("dit."): value for key, value in trainer.averaged().items()}
    metadata = {
        "format": "pt",
        "licence": "Apache-2.0",
        "modelspec.title": f"{_file_name(own)} 4 steps",
        "model": "wan22-tiny",
        "stage": name,
        "steps": str(progress.step),
        "rank": str(own.rank),
    }
    folder.write_weights(name, state, metadata)
    return progress


def export_loras(distillation: Distillation, folder: TrainingFolder) -> list[Path]:
    """Writes the shipped files of all LoRAs that have been trained, and returns their paths."""
    files = []
    for name, own in distillation.stages.items():
        if not folder.weights(name).is_file():
            continue
        path = folder.export / "loras" / f"{_file_name(own)}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(file_state(folder.read_weights(name)), path, folder.metadata(name))
        files.append(path)
    return files


def _file_name(own: DistillRecipe) -> str:
    return FILE_NAME.format(kind=own.kind, expert=own.expert)


def _partner(own: DistillRecipe, distillation: Distillation) -> DistillRecipe:
    return next(
        r for r in distillation.stages.values() if r.kind == own.kind and r.expert == "high"
    )


def _open(name: str, recipe: Recipe, folder: TrainingFolder, device: torch.device) -> DiTStage:
    """Returns a trained expert."""
    stage = open_dit_stage(name, recipe, folder, device)
    start_from(stage.dit, folder.read_weights(name))
    return stage
