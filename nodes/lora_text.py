"""What becomes of LoRA files, in words."""

from collections.abc import Iterable

from ..wan_model.loading import Expert
from ._comfy.model.lora_apply import Applied

MAX_LISTED = 3
"""Names that a line gives."""


def said_of(name: str, expert: Expert | None, applied: Applied) -> list[str]:
    """Returns the lines for one file on one MODEL.

    Args:
        name: as listed.
        expert: that it is for, if there are two.
        applied: what it does.
    """
    found = applied.translated
    where = f" on the {expert}-noise expert" if expert else ""
    parts = [f"{applied.matched} weights changed by about {_percent(applied.effect)}"]
    parts += [f"{count} skipped, {why}" for why, count in found.skipped.items()]
    if found.misfits:
        parts.append(f"{len(found.misfits)} of another size ({_listed(found.misfits)})")
    if found.unmatched:
        parts.append(f"{len(found.unmatched)} unknown ({_listed(found.unmatched)})")
    lines = [f"{name} at {applied.strength:g}{where}: {'; '.join(parts)}."]
    if applied.merged_anew:
        lines.append(
            f"{applied.merged_anew} of them cannot be kept as small matrices. They are computed "
            f"exactly at each use, which makes steps slower; 16-bit models are not slower."
        )
    return lines


def _percent(part: float) -> str:
    return f"{float(f'{100 * part:.2g}'):g} %"  # 100 is no 1e+02


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = len(names) - MAX_LISTED
    return ", ".join(names[:MAX_LISTED]) + (f" and {more} more" if more > 0 else "")
