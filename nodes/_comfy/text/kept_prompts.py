"""Prompts that language models wrote, kept on disk: the same question is not asked twice."""

import hashlib
import json
import logging
from pathlib import Path

from ....wan_model.whole_file import write_whole
from ..host.runtime import cache_folder

logger = logging.getLogger(__name__)

MOST_FILES = 1000
MOST_BYTES = 64 << 10
"""Of one file, which somebody may have changed."""


def kept_answer(question: bytes) -> str | None:
    """Returns what was answered before; None if nothing was, or the file is damaged."""
    file = _file(question)
    try:
        if not file.is_file() or file.stat().st_size > MOST_BYTES:
            return None
        answer = json.loads(file.read_text("utf-8"))["prompt"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        logger.warning("A prompt kept on disk cannot be read: %s", error)
        return None
    return answer if isinstance(answer, str) else None


def keep_answer(question: bytes, answer: str) -> None:
    """Writes an answer whole or not at all; the oldest make room. A full disk is no error."""
    file = _file(question)
    try:
        write_whole(file, json.dumps({"prompt": answer}, ensure_ascii=False).encode())
        files = sorted(file.parent.iterdir(), key=lambda one: one.stat().st_mtime)
        for old in files[:-MOST_FILES]:
            old.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("The prompt was not kept on disk: %s", error)


def _file(question: bytes) -> Path:
    return cache_folder() / "prompts" / f"{hashlib.sha256(question).hexdigest()}.json"
