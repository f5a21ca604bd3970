"""The recipe of the four-step LoRAs: what each is trained on, and for how long."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from wan_model.config import OFFICIAL, Kind
from wan_model.loading import Expert
from wan_model.presets import presets
from wan_model.sampling import make_sigmas

from .config import Optimisation


@dataclass(frozen=True, kw_only=True)
class DistillRecipe:
    """One LoRA: the steps of the preset "4 steps" that its expert takes."""

    kind: Kind
    expert: Expert
    solver_steps: tuple[int, int, int, int]
    """Of the teacher, in the place of each of the four."""
    optimisation: Optimisation
    rank: int = 32
    clips: int = 16384
    """Scenes whose captions, and for I2V first frames, are used, each with endless noise."""
    group_size: int = 256
    """Trajectories made at once."""
    groups: int = 32
    """Held at a time."""
    refresh_steps: int = 48
    """Steps after which the oldest group is replaced."""
    val_groups: int = 1

    @property
    def name(self) -> str:
        """The stage's name."""
        return f"{self.kind}_lightning_{self.expert}"

    @property
    def teachers(self) -> tuple[str, str]:
        """Stages of the two experts."""
        return f"{self.kind}_high", f"{self.kind}_low"

    @property
    def levels(self) -> list[float]:
        """The five noise levels of the preset."""
        values = presets()["four_steps"].values(self.kind)
        return make_sigmas(values.sampler or "", values.steps or 0, values.shift or 0).tolist()

    @property
    def first_step(self) -> int:
        """The first of the two steps of this expert: the boundary is between the other two."""
        high = sum(level >= (OFFICIAL[self.kind].boundary or 0) for level in self.levels)
        assert high == len(self.levels) // 2
        return 0 if self.expert == "high" else high


def _optimisation(seconds: float) -> Optimisation:
    """Returns the settings of a LoRA."""
    return Optimisation(
        steps=12000,
        seconds=seconds,
        batch_size=128,
        learning_rate=1e-3,
        matrix_learning_rate=2e-3,
        warmup_steps=50,
        decay_fraction=0.7,
        weight_decay=0.0,
        ema_decay=0.99,
    )


def _recipes() -> dict[str, DistillRecipe]:
    recipes = [
        DistillRecipe(
            kind=kind, expert=expert, solver_steps=steps, optimisation=_optimisation(seconds)
        )
        for kind, steps in (("t2v", (8, 5, 5, 4)), ("i2v", (5, 5, 5, 5)))
        for expert, seconds in (("high", 180), ("low", 180))
    ]
    return {recipe.name: recipe for recipe in recipes}


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """All of them."""

    stages: Mapping[str, DistillRecipe] = field(default_factory=_recipes)
