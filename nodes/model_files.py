"""Names of model files that a workflow brings: whether they can be had here."""

from pathlib import Path

from ._comfy.host import runtime


def missing_file(folder: str, name: str | None) -> str | None:
    """Says that a file cannot be had; None if it can, or if its name comes from another node."""
    if name is None or name in runtime.model_names(folder):
        return None
    if not isinstance(name, str):
        return f"This is not a file name. Got {name!r}, need a name. Pick a file."
    if runtime.is_file(folder, name):
        return (
            f"The file {name!r} is of a kind that is not read here. Got "
            f"{Path(name).suffix or 'no ending'}, need {runtime.endings(folder)}. Pick another "
            "version of the model."
        )
    return (
        f"The file {name!r} was not found. Got a name that is not in models/{folder}, need one of "
        "the files there. Put it there and press R, or pick another file."
    )
