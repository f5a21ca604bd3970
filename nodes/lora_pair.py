"""The node that puts LoRA files on both experts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comfy_api.latest import io

from ..wan_model.errors import PairingError
from ..wan_model.loading import Expert, guess_expert
from ..wan_model.lora import LoraFile, experts_of, open_lora, partner
from ._comfy.host import runtime
from ._comfy.model import facts
from ._comfy.model.lora_apply import Applied, apply_file
from ._report import reports_errors
from .checked_inputs import Choice, Least, Model
from .loaders import CATEGORY
from .lora_text import said_of
from .search_words import search_words

FOLDER = "loras"
NONE, AUTO = "none", "auto"
ROWS = ("", "_2", "_3")
"""What the names of a row's inputs end with."""


@dataclass(frozen=True)
class Row:
    """One LoRA as the node's widgets have it."""

    high: str
    low: str
    strength_high: float
    strength_low: float
    on: bool


class WanDuetLoraPair(io.ComfyNode):
    """Puts LoRAs on the high-noise and the low-noise expert."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describes the node."""
        files = runtime.model_names(FOLDER)
        return io.Schema(
            node_id="WanDuetLoraPair",
            display_name="Wan 2.2 Load LoRA Pair",
            **search_words("WanDuetLoraPair"),
            category=CATEGORY,
            description=(
                "Puts up to three LoRAs on both experts and lists what each one changes. Chain "
                "nodes for more."
            ),
            inputs=[
                Model.Input(
                    "model_high",
                    tooltip=(
                        "High-noise expert, or TI2V-5B, from WanDuet's or ComfyUI's own loader. "
                        "The input is not changed."
                    ),
                ),
                Model.Input(
                    "model_low",
                    optional=True,
                    tooltip=(
                        "Low-noise expert. Leave it empty for TI2V-5B. The input is not changed."
                    ),
                ),
                *_row_inputs(files, ROWS[0], first=True),
                *(item for row in ROWS[1:] for item in _row_inputs(files, row, first=False)),
            ],
            outputs=[
                io.Model.Output(display_name="model_high"),
                io.Model.Output(display_name="model_low"),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, **values: Any) -> str:
        """Has files that were written again be read again."""
        files = runtime.model_names(FOLDER)
        names = [name for key, name in values.items() if key.startswith("lora_")]
        partners = [partner(name, files) for name in names if name is not None]
        return f"{partners} {runtime.file_stamp(FOLDER, *names, *partners)}"

    @classmethod
    @reports_errors
    def execute(cls, model_high: Any, model_low: Any = None, **values: Any) -> io.NodeOutput:
        """Returns clones of both MODELs."""
        facts.of_experts(model_high, model_low)
        lines: list[str] = []
        for end in ROWS:
            row = row_of(values, end)
            if row.on:
                model_high, model_low, said = _apply(model_high, model_low, row)
                lines += said
        runtime.show(cls.hidden.unique_id, "\n".join(lines) or "No LoRA is on.")
        return io.NodeOutput(model_high, model_low)


def _row_inputs(files: Sequence[str], end: str, *, first: bool) -> list[Any]:
    """Returns the inputs of one row; those of the first are required."""
    optional = not first
    return [
        Choice.Input(
            f"lora_high{end}",
            options=[NONE, *files],
            default=NONE,
            optional=optional,
            tooltip="LoRA file for the high-noise expert, which decides layout and motion.",
        ),
        Choice.Input(
            f"lora_low{end}",
            options=[AUTO, NONE, *files],
            default=AUTO,
            optional=optional,
            tooltip=(
                "LoRA file for the low-noise expert, which paints detail. auto: the partner of "
                "the file above, found by its name."
            ),
        ),
        *(
            io.Float.Input(
                f"strength_{expert}{end}",
                default=1.0,
                min=Least(-20.0),
                max=20.0,
                step=0.05,
                round=0.001,
                optional=optional,
                tooltip=(
                    f"Strength on the {expert}-noise expert. 1: as trained. 0: no effect. Negative "
                    "values reverse the effect."
                ),
            )
            for expert in ("high", "low")
        ),
        io.Boolean.Input(
            f"on{end}",
            default=True,
            optional=optional,
            tooltip="Off leaves this row's LoRA out of both experts and keeps its settings.",
        ),
    ]


def row_of(values: dict[str, Any], end: str) -> Row:
    """Returns a row of the node; inputs that older workflows lack have their defaults."""
    return Row(
        values.get(f"lora_high{end}", NONE),
        values.get(f"lora_low{end}", AUTO),
        values.get(f"strength_high{end}", 1.0),
        values.get(f"strength_low{end}", 1.0),
        values.get(f"on{end}", True),
    )


def _apply(model_high: Any, model_low: Any, row: Row) -> tuple[Any, Any, list[str]]:
    """Puts one row's LoRAs on both MODELs.

    Returns:
        the MODELs, and what is to be said.

    Raises:
        WanError: for a file that is no LoRA for this model, and for a swapped pair.
    """
    low, lines = low_file(row, has_low=model_low is not None)
    if _experts(row.high, low) == ("low", "high"):
        raise PairingError(
            f"These LoRAs look swapped, judging by names and headers. Got {row.high} at lora_high "
            f"and {low} at lora_low, need them the other way round. Swap them, or rename a file "
            "whose name is wrong."
        )
    models: dict[Expert, Any] = {"high": model_high, "low": model_low}
    chosen: tuple[tuple[Expert, str, float], ...] = (
        ("high", row.high, row.strength_high),
        ("low", low, row.strength_low),
    )
    applied: list[Applied] = []
    for expert, name, strength in chosen:
        if name == NONE or models[expert] is None:
            continue
        if strength == 0:
            lines.append(f"{name}: off on the {expert}-noise expert, its strength is 0.")
            continue
        path = runtime.model_path(FOLDER, name)
        models[expert], found = apply_file(models[expert], path, strength, expert)
        applied.append(found)
        lines += said_of(name, expert if model_low is not None else None, found)
    if len(applied) == 2 and not applied[0].of_both_experts:
        lines += _doubled(row.high, low)
    return models["high"], models["low"], lines


def low_file(row: Row, *, has_low: bool) -> tuple[str, list[str]]:
    """Returns the file for the low-noise expert, and what is to be said of the choice."""
    if not has_low:
        unused = row.low not in (AUTO, NONE)
        said = f"{row.low} is not used: no low-noise expert is connected at model_low."
        return NONE, [said] if unused else []
    if row.low != AUTO or row.high == NONE:
        return (NONE if row.low == AUTO else row.low), []
    found = partner(row.high, runtime.model_names(FOLDER))
    if found is not None:
        return found, []
    speaks_of = guess_expert(Path(row.high))
    if speaks_of is None or _opened(row.high).of_both_experts:
        return row.high, []
    return NONE, [
        f"No partner of {row.high} was found, so the low-noise expert is without this LoRA. "
        "Choose a file for it, or none."
    ]


def _opened(name: str) -> LoraFile:
    return open_lora(runtime.model_path(FOLDER, name))


def _experts(high: str, low: str) -> tuple[Expert | None, Expert | None]:
    """Guesses which experts a row's files are for, by names and headers."""
    if NONE in (high, low):
        return None, None
    if high == low:
        expert = guess_expert(Path(low))
        return expert, expert
    headers = (_opened(high).metadata, _opened(low).metadata)
    return experts_of(Path(high), Path(low), headers)


def _doubled(high: str, low: str) -> list[str]:
    """Returns what is to be said of two files for one expert."""
    found, other = _experts(high, low)
    if found is None or found != other:
        return []
    files = low if high == low else f"{high} and {low}"
    return [
        f"Both experts have a LoRA for the {found}-noise one, judging by names and headers: "
        f"{files}. Choose the partner for the other."
    ]


NODES: list[type[io.ComfyNode]] = [WanDuetLoraPair]
