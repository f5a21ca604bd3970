"""Runs one stage: gathers what it needs, trains, and leaves the result for the next ones."""

import logging
import time
from collections.abc import Sequence

import torch
from torch import nn

from wan_model.loading import load_vae

from .config import TEXT_ENCODER, Recipe
from .data import Clips
from .dit import start_from
from .dit_stage import DiTStage
from .files import State, TrainingFolder
from .norms import fuse_norms
from .peers import ALONE, Peers
from .text_encoder import build_text_encoder
from .text_stage import TextStage
from .tokenizer import Tokenizer, train_tokenizer
from .trainer import Progress, Trainer
from .vae import VaeStage

log = logging.getLogger(__name__)


def run_stage(
    name: str,
    recipe: Recipe,
    folder: TrainingFolder,
    *,
    device: torch.device,
    seconds: float | None = None,
    steps: int | None = None,
    stop_after: int | None = None,
    init_from: str | None = None,
    compile_blocks: bool = False,
    peers: Peers = ALONE,
) -> Progress:
    """Trains a stage, or goes on with it, and writes its weights and loss curve.

    Args:
        name: a stage of the recipe.
        recipe: the recipe.
        folder: where everything is.
        device: where to train.
        seconds: wall-clock time for all of it. None: that of the recipe.
        steps: length of the schedule. None: that of the recipe, cut to what fits the time.
        stop_after: stop early, after so many steps of this call.
        init_from: stage to begin with instead of the recipe's.
        compile_blocks: compile the transformer's blocks.
        peers: processes that train it together, of which the first writes.

    Raises:
        ValueError: several processes for what is no transformer.
    """
    start = time.monotonic()
    _refuse_peers(name, recipe, peers)
    seconds = seconds or _optimisation_seconds(recipe, name)
    stage = _begin(name, recipe, folder, device, init_from, peers)
    if compile_blocks and isinstance(stage, DiTStage):
        for block in stage.dit.blocks:
            block.compile()
    trainer = Trainer(stage, folder.state(name), steps=steps, peers=peers)
    progress = trainer.run(seconds - (time.monotonic() - start), stop_after)
    if peers.leads:
        folder.write_log(name, progress)
        folder.write_weights(name, _result(stage, trainer), _metadata(name, recipe, progress))
    peers.wait()
    return progress


def _begin(
    name: str,
    recipe: Recipe,
    folder: TrainingFolder,
    device: torch.device,
    init_from: str | None,
    peers: Peers,
) -> DiTStage | VaeStage | TextStage:
    """Returns a stage with the weights it begins with, unless it goes on from its own state."""
    if name == TEXT_ENCODER:
        stage = TextStage(name, recipe, device, open_tokenizer(recipe, folder))
        source = init_from or recipe.text.init_from
        if source and not folder.state(name).is_file():
            load_text_encoder(stage.model[TEXT_ENCODER], folder.read_weights(source))
    elif name in recipe.vaes:
        stage = VaeStage(name, recipe, device, _compute_dtype(device))
        source = init_from or recipe.vaes[name].init_from
        # The encoder of a VAE that goes on is not trained, so that no state has it.
        if source and (recipe.vaes[name].init_from or not folder.state(name).is_file()):
            stage.model.load_state_dict(folder.read_weights(source))
    else:
        stage = open_dit_stage(name, recipe, folder, device, peers)
        source = init_from or stage.own.init_from
        if source and not folder.state(name).is_file():
            start_from(stage.dit, folder.read_weights(source))
    return stage


def _refuse_peers(name: str, recipe: Recipe, peers: Peers) -> None:
    """Raises ValueError if several processes are to train what is no transformer."""
    if peers.count > 1 and name not in recipe.dits:
        raise ValueError(
            f"{name} cannot be trained by several processes. Got {peers.count}, need 1. Start it "
            "without torchrun."
        )


def _result(stage: DiTStage | VaeStage | TextStage, trainer: Trainer) -> State:
    """Returns the weights that a stage has come to."""
    if isinstance(stage, VaeStage):
        return stage.finish()
    return _part(trainer.averaged(), "dit" if isinstance(stage, DiTStage) else TEXT_ENCODER)


def open_dit_stage(
    name: str,
    recipe: Recipe,
    folder: TrainingFolder,
    device: torch.device,
    peers: Peers = ALONE,
) -> DiTStage:
    """Returns an untrained transformer stage with its VAE and text encoder in place."""
    own = recipe.dits[name]
    tokenizer = open_tokenizer(recipe, folder)
    encoder = build_text_encoder(recipe.text, tokenizer.size).to(device)
    load_text_encoder(encoder, folder.read_weights(TEXT_ENCODER))
    dtype = _compute_dtype(device)
    folder.read_weights(own.vae)
    vae = fuse_norms(load_vae(folder.weights(own.vae), device=device, dtype=dtype))
    return DiTStage(
        name,
        recipe,
        device,
        vae=vae,
        tokenizer=tokenizer,
        text_encoder=encoder,
        folder=folder,
        compute_dtype=dtype,
        peers=peers,
    )


def make_clips(
    names: Sequence[str], recipe: Recipe, folder: TrainingFolder, device: torch.device
) -> None:
    """Makes the clips of transformers before they are trained, where nobody has yet."""
    for name in names:
        open_dit_stage(name, recipe, folder, device).clips  # noqa: B018 - kept in a file


def open_tokenizer(recipe: Recipe, folder: TrainingFolder) -> Tokenizer:
    """Returns the tokenizer, trained first if there is none yet."""
    if not folder.tokenizer.is_file():
        folder.path.mkdir(parents=True, exist_ok=True)
        clips = Clips(recipe.clips, recipe.seed, "train", torch.device("cpu"))
        folder.tokenizer.write_bytes(train_tokenizer(recipe, clips))
    return Tokenizer.load(folder.tokenizer, recipe.text.max_tokens)


def load_text_encoder(encoder: nn.Module, state: State) -> None:
    """Fills an encoder; the token table is stored once and used under two names."""
    absent = encoder.load_state_dict(state, strict=False).missing_keys
    if set(absent) - {"encoder.embed_tokens.weight"}:
        raise ValueError(f"The text encoder's file does not fit. Missing: {absent}.")


def _part(tensors: State, name: str) -> State:
    prefix = name + "."
    return {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}


def _compute_dtype(device: torch.device) -> torch.dtype:
    """bf16 where there are matrix units for it."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def _optimisation_seconds(recipe: Recipe, name: str) -> float:
    if name == TEXT_ENCODER:
        return recipe.text.optimisation.seconds
    own = recipe.vaes[name] if name in recipe.vaes else recipe.dits[name]
    return own.optimisation.seconds


def _metadata(name: str, recipe: Recipe, progress: Progress) -> dict[str, str]:
    return {
        "format": "pt",
        "licence": "Apache-2.0",
        "model": "wan22-tiny",
        "stage": name,
        "recipe": recipe.digest(),
        "steps": str(progress.step),
        "size_px": str(recipe.dits[name].size_px if name in recipe.dits else recipe.clips.size_px),
    }
