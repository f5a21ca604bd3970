"""What a run is sampled with: what a person typed, else the preset's, the model's, the official."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..config import OFFICIAL, Kind
from .preset import Preset, presets
from .recognition import Distilled
from .values import Values

DEFAULT_START = 1
"""First steps of a model that is given for them, where nothing says how many."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings with every open one filled in."""

    steps: int
    shift: float
    boundary: float
    """0 for a model without experts."""
    cfg_high: float
    cfg_low: float
    sampler: str
    scheduler: str
    levels: tuple[float, ...] | None
    """Noise levels in the place of a schedule."""
    start_steps: int
    cfg_start: float


@dataclass(frozen=True, kw_only=True)
class Models:
    """What a run has to sample with."""

    kind: Kind
    high: Sequence[Distilled] = ()
    """What is made for few steps of the high-noise expert, or of the only model: itself, LoRAs."""
    low: Sequence[Distilled] | None = None
    """The same of the low-noise expert; None without one."""
    has_start: bool = False
    """Whether there is a model for the first steps."""


def choose(
    models: Models, typed: Values, preset: Preset | None = None, denoise: float = 1.0
) -> tuple[Settings, list[str]]:
    """Fills in what was left open.

    Args:
        models: what there is.
        typed: what a person decided.
        preset: what fills in the rest, as far as it goes.
        denoise: below 1, noise levels of a preset's own are not used.

    Returns:
        the settings, and what is to be said of where they come from.
    """
    own, said = of_models(models)
    wanted = preset.values(models.kind) if preset else Values()
    if preset is not None and preset.needs == "low distilled" and models.low is None:
        # Its first steps end where high noise does, which one model has all steps of.
        wanted = replace(wanted, start_steps=None, cfg_start=None)
    if preset is not None:
        said = [*_of_preset(preset, wanted, typed), *_misfits(preset, models)]
    base = official(models.kind)
    if preset is None or not preset.over_official:
        base = own.over(base)
    filled = wanted.over(base)
    levels, refused = _levels(filled.levels, typed, denoise)
    start = filled.start_steps or (DEFAULT_START if models.has_start else 0)
    steps = len(filled.levels) - 1 if filled.levels else filled.steps
    final = typed.over(replace(filled, steps=steps, start_steps=start))
    settings = Settings(
        steps=final.steps or 0,
        shift=final.shift or 0.0,
        boundary=final.boundary or 0.0,
        cfg_high=final.cfg_high or 0.0,
        cfg_low=final.cfg_low or 0.0,
        sampler=final.sampler or "",
        scheduler=final.scheduler or "",
        levels=levels,
        start_steps=final.start_steps or 0,
        cfg_start=final.cfg_start or 0.0,
    )
    return settings, [*said, *refused]


def official(kind: Kind) -> Values:
    """Returns the official settings of a kind of model."""
    known = OFFICIAL[kind]
    return Values(
        steps=known.steps,
        shift=known.shift,
        boundary=known.boundary or 0.0,
        cfg_high=known.cfg_high,
        cfg_low=known.cfg_low,
        sampler="unipc",
        scheduler="wan",
        cfg_start=known.cfg_high,
    )


def of_models(models: Models) -> tuple[Values, list[str]]:
    """Returns what the models themselves want, as far as they are made for few steps.

    Where one expert is and the other is not, the run has the steps of the preset hybrid, and each
    expert its own guidance.
    """
    high, of_high = _of_expert(models.kind, models.high)
    low, of_low = _of_expert(models.kind, models.low or ())
    said = list(dict.fromkeys([*of_high, *of_low]))
    if high is None and low is None:
        return Values(), []
    said.append("So settings that are left open are its own. Type others, or choose a preset.")
    if models.low is None:
        return high or Values(), said
    if high is not None and low is not None:
        return _longer(high, low), said
    mixed = presets()["hybrid"].values(models.kind)
    mixed = replace(mixed, start_steps=None, cfg_start=None, cfg_high=None, cfg_low=None)
    name, other = ("high", "low") if low is None else ("low", "high")
    said[-1] = (
        f"Only the {name}-noise expert is. The {other}-noise one is guided, as without it, and the "
        "run has more steps than 4. Give it its LoRA, too, if that is not meant."
    )
    if high is not None:
        return replace(mixed, cfg_high=high.cfg_high), said
    return replace(mixed, cfg_low=low.cfg_low if low else None), said


def _of_expert(kind: Kind, found: Sequence[Distilled]) -> tuple[Values | None, list[str]]:
    """Returns the settings of what needs the most steps, and who says so."""
    if not found:
        return None, []
    values = [each.values(kind) for each in found]
    chosen = max(range(len(found)), key=lambda index: values[index].count)
    said = [f"{each.describe()}." for each in found]
    if len({each.count for each in values}) > 1:
        said.append(f"The steps are those of {found[chosen].file}, which wants the most.")
    return values[chosen], said


def _longer(high: Values, low: Values) -> Values:
    """Returns one run's settings for two experts, each with its own guidance."""
    longer = high if high.count >= low.count else low
    return replace(longer, cfg_high=high.cfg_high, cfg_low=low.cfg_low)


def _of_preset(preset: Preset, wanted: Values, typed: Values) -> list[str]:
    own = [
        name
        for name, value in vars(wanted).items()
        if value is not None and getattr(typed, name) is not None
    ]
    rest = f" Typed instead of its own: {', '.join(own)}." if own else ""
    return [f"Preset {preset.name}: {preset.note}.{rest}"]


def _misfits(preset: Preset, models: Models) -> list[str]:
    """Returns what is odd about a preset for these models; names may not tell, so it is used."""
    experts = {"high-noise expert": models.high, "low-noise expert": models.low}
    if models.low is None:
        experts = {"model": models.high}
    distilled = [name for name, found in experts.items() if found]
    plain = [name for name, found in experts.items() if not found]
    if preset.needs == "base" and distilled:
        return [
            f"The {' and the '.join(distilled)} {_are(distilled)} made for few steps without "
            "guidance, where this preset burns colours. Take the LoRA out, or choose auto."
        ]
    if preset.needs == "low distilled" and models.low is None:
        return [
            "This preset is for two experts, of which the low-noise one is made for few steps; for "
            "one model it does not fit. Choose auto."
        ]
    if preset.needs == "low distilled":
        plain = [name for name in plain if name != "high-noise expert"]
    if preset.needs != "base" and plain:
        return [
            f"The {' and the '.join(plain)} {_are(plain)} not known to be made for few steps: "
            "without a LoRA for them the video is blurred. A file whose name does not tell is fine."
        ]
    return []


def _are(names: Sequence[str]) -> str:
    return "are" if len(names) > 1 else "is"


def _levels(
    levels: tuple[float, ...] | None, typed: Values, denoise: float
) -> tuple[tuple[float, ...] | None, list[str]]:
    """Returns the noise levels that are run, and why there are none of the preset's own."""
    if levels is None:
        return None, []
    most = len(levels) - 1
    reasons = [
        reason
        for reason, counts in (
            (f"it has {most} of them, and steps is {typed.steps}", (typed.steps or 0) > most),
            ("shift is typed", typed.shift is not None),
            ("a scheduler is chosen", typed.scheduler is not None),
            ("denoise is below 1", denoise < 1),
        )
        if counts
    ]
    if reasons:
        return None, [f"The noise levels made for it are not used: {reasons[0]}."]
    return (*levels[: typed.steps or most], 0.0), []
