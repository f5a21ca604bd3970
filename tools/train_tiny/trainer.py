"""The training loop: fp32 master weights, averaged weights, learning rate, and resuming."""

import json
import logging
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .config import Optimisation
from .data import Batch
from .graphs import GraphedStep
from .optimiser import build_optimisers
from .peers import ALONE, AVERAGE_STEPS, Peers

log = logging.getLogger(__name__)

LOG_STEPS = 50
SAVE_SECONDS = 8.0
"""Kept free at the end of a run, for validation and the last checkpoint."""
CHECKPOINT_SECONDS = 120.0
"""Time after which progress is saved during a run, in case it does not come to its end."""

Metrics = dict[str, float]


class Stage(Protocol):
    """One thing to be trained."""

    name: str
    model: nn.Module
    """What is trained, in whatever dtype it computes in."""
    optimisation: Optimisation

    def batch(self, step: int) -> Batch:
        """Returns everything that the loss of a step depends on, random numbers included."""
        ...

    def loss(self, batch: Batch) -> tuple[Tensor, Batch]:
        """Returns the loss of a batch, and parts of it to be logged."""
        ...

    def validate(self) -> Metrics:
        """Returns how good `model` is on clips that are not trained on."""
        ...


class MasterWeights:
    """fp32 copies of a model's weights, which the optimiser changes, and their moving average."""

    def __init__(self, model: nn.Module) -> None:
        """Copies the weights of `model`, which is told of every change by `put`."""
        self.names = [name for name, p in model.named_parameters() if p.requires_grad]
        self.model = [p for p in model.parameters() if p.requires_grad]
        self.current = [p.detach().float().clone() for p in self.model]
        self.average = [p.clone() for p in self.current]
        self.decay = torch.zeros((), device=self.current[0].device)

    def take_gradients(self) -> None:
        """Moves the model's gradients to the fp32 weights."""
        for master, weight in zip(self.current, self.model, strict=True):
            master.grad = None if weight.grad is None else weight.grad.float()
            weight.grad = None

    def set_decay(self, step: int, decay: float) -> None:
        """Sets what the average keeps of itself; less in the first steps."""
        self.decay.fill_(min(decay, (1 + step) / (10 + step)))

    def update_average(self) -> None:
        """Moves the average towards the current weights."""
        torch._foreach_mul_(self.average, self.decay)
        torch._foreach_add_(self.average, torch._foreach_mul(self.current, 1 - self.decay))

    def put(self, weights: list[Tensor]) -> None:
        """Gives the model these weights, rounded to its dtype."""
        with torch.no_grad():
            torch._foreach_copy_(self.model, weights)


@dataclass
class Progress:
    """Where a training run is; everything that is not a tensor."""

    step: int = 0
    total: int = 0
    """Steps that the schedule is made for."""
    seconds: float = 0.0
    log: list[Metrics] = field(default_factory=list)


def learning_rate_factor(step: int, total: int, optimisation: Optimisation) -> float:
    """Returns the part of the learning rate that a step uses: up, constant, down to almost 0."""
    warm = (step + 1) / optimisation.warmup_steps
    left = (total - step) / max(1.0, total * optimisation.decay_fraction)
    return max(0.0, min(1.0, warm, left))


class Trainer:
    """Trains one stage until its steps or the time are over; can go on later."""

    def __init__(
        self,
        stage: Stage,
        state_file: Path,
        *,
        steps: int | None = None,
        peers: Peers = ALONE,
    ) -> None:
        """Starts afresh, or where `state_file` was left.

        Args:
            stage: what to train.
            state_file: where to keep weights, optimiser and progress.
            steps: length of the schedule. None: that of the recipe, cut to what fits the time.
            peers: other processes that train the same stage; the first one writes the file.
        """
        self.stage, self.state_file, self.peers = stage, state_file, peers
        self.weights = MasterWeights(stage.model)
        recipe = stage.optimisation
        self.optimisers = build_optimisers(self.weights.names, self.weights.current, recipe)
        self.train_on = GraphedStep(self._train_on, self.weights.current[0].device)
        self.fits_time = steps is None
        self.progress = Progress(total=steps or recipe.steps)
        if state_file.is_file():
            self._load()

    def run(self, seconds: float, stop_after: int | None = None) -> Progress:
        """Trains, validates and saves.

        Args:
            seconds: wall-clock time for all of it.
            stop_after: steps after which to stop early, as if the time were over.
        """
        start = time.monotonic()
        earlier = self.progress.seconds
        deadline = start + seconds - SAVE_SECONDS
        window_time, window_step, sums = start, self.progress.step, {}
        saved = start
        stop = min(self.progress.step + (stop_after or math.inf), math.inf)
        while self.progress.step < min(self.progress.total, stop):
            parts = self._step()
            for name, value in parts.items():
                sums[name] = sums.get(name, 0.0) + value
            step = self.progress.step
            if step % AVERAGE_STEPS == 0:
                self.peers.average(self.weights.current)
            over = self.peers.count == 1 and time.monotonic() > deadline
            if step - window_step == LOG_STEPS or step in (self.progress.total, stop):
                means = {name: float(value) / (step - window_step) for name, value in sums.items()}
                now = time.monotonic()
                rate = (step - window_step) / (now - window_time)
                self._fit_schedule(rate, deadline - now)
                over = self._agree(over=now > deadline)
                self.progress.seconds = earlier + now - start
                self._record(means | {"steps_per_second": rate})
                if now - saved > CHECKPOINT_SECONDS:
                    self.save()
                    saved = now = time.monotonic()
                window_time, window_step, sums = now, step, {}
            if over:
                break
        self.peers.average([*self.weights.current, *self.weights.average])
        self.weights.put(self.weights.average)
        if self.peers.leads:
            self._record({f"val_{name}": value for name, value in self.stage.validate().items()})
        self.progress.seconds = earlier + time.monotonic() - start
        self.save()
        return self.progress

    def averaged(self) -> dict[str, Tensor]:
        """Returns the averaged fp32 weights by name."""
        return dict(zip(self.weights.names, self.weights.average, strict=True))

    def save(self) -> None:
        """Writes everything that a later run needs, whole or not at all; the first process does."""
        if not self.peers.leads:
            return
        self.state_file.parent.mkdir(parents=True, exist_ok=True)
        part = self.state_file.with_suffix(".part")
        state = {
            "names": self.weights.names,
            "current": self.weights.current,
            "average": self.weights.average,
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "progress": json.dumps(vars(self.progress)),
        }
        torch.save(state, part)
        part.replace(self.state_file)

    def _load(self) -> None:
        device = self.weights.current[0].device
        state: dict[str, Any] = torch.load(self.state_file, map_location=device, weights_only=True)
        if state["names"] != self.weights.names:
            raise ValueError(
                f"{self.state_file.name} belongs to another model. Got {len(state['names'])} "
                f"weights, need {len(self.weights.names)}. Delete it to start afresh."
            )
        torch._foreach_copy_(self.weights.current, state["current"])
        torch._foreach_copy_(self.weights.average, state["average"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.progress = Progress(**json.loads(state["progress"]))

    def _agree(self, *, over: bool) -> bool:
        """Takes from the first process how long the schedule is and whether the time is over."""
        device = self.weights.current[0].device
        own = (self.progress.total, int(over))
        self.progress.total, over_too = self.peers.as_the_first(own, device)
        return bool(over_too)

    def _step(self) -> Batch:
        progress, recipe = self.progress, self.stage.optimisation
        factor = learning_rate_factor(progress.step, progress.total, recipe)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"].fill_(group["initial_lr"] * factor)
        self.weights.set_decay(progress.step, recipe.ema_decay)
        batch = self.stage.batch(progress.step)
        progress.step += 1
        return self.train_on(batch)

    def _train_on(self, batch: Batch) -> Batch:
        """Changes the weights by the gradient of one batch."""
        self.weights.put(self.weights.current)
        loss, parts = self.stage.loss(batch)
        loss.backward()
        self.weights.take_gradients()
        clip_norm = self.stage.optimisation.clip_norm
        norm = nn.utils.clip_grad_norm_(self.weights.current, clip_norm)
        for optimiser in self.optimisers:
            optimiser.step()
        self.weights.update_average()
        return {"loss": loss.detach(), "gradient_norm": norm, **parts}

    def _fit_schedule(self, rate: float, seconds_left: float) -> None:
        """Shortens the schedule to what the time allows, until the learning rate begins to fall."""
        progress, recipe = self.progress, self.stage.optimisation
        if not self.fits_time or progress.step < 2 * LOG_STEPS:
            return
        if progress.step < progress.total * (1 - recipe.decay_fraction):
            progress.total = min(recipe.steps, progress.step + int(0.97 * rate * seconds_left))

    def _record(self, metrics: Metrics) -> None:
        if not all(math.isfinite(value) for value in metrics.values()):
            raise FloatingPointError(
                f"Training of {self.stage.name} has broken down. Got {metrics} at step "
                f"{self.progress.step}, need finite numbers. Lower the learning rate."
            )
        seconds = round(self.progress.seconds, 1)
        self.progress.log.append({"step": self.progress.step, "seconds": seconds, **metrics})
        shown = " ".join(f"{name} {value:.5g}" for name, value in metrics.items())
        log.info(
            "%s %d/%d %ss %s",
            self.stage.name,
            self.progress.step,
            self.progress.total,
            seconds,
            shown,
        )
