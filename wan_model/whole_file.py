"""Small files that several programs keep in one place: each is written whole or not at all."""

from contextlib import suppress
from pathlib import Path
from uuid import uuid4

ENDING = ".part"
"""Of what is being written; a program that was killed leaves it behind."""


def write_whole(file: Path, data: bytes) -> None:
    """Writes a file beside its place and moves it there; makes its folder if there is none.

    Raises:
        OSError: if it cannot be written; what was there before stays.
    """
    part = file.with_name(f"{file.name}.{uuid4().hex}{ENDING}")
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        part.write_bytes(data)
        part.replace(file)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
