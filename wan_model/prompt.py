"""Prompts cleaned and cut as the official tokenizer wrapper does (`wan/modules/tokenizers.py`)."""

import html
import re
import sys

from .config import NEGATIVE_PROMPT, TEXT_LEN
from .errors import BackendError

END_TOKEN = 1
"""umT5's </s>, which closes every prompt."""


def clean_prompt(text: str) -> str:
    """Repairs broken characters, resolves HTML entities twice, and joins runs of whitespace.

    The repair also turns full-width and curly punctuation into plain, so it matters for ordinary
    prompts, and for the official negative one.

    Raises:
        BackendError: if the package ftfy is not installed.
    """
    try:
        import ftfy
    except ImportError as error:
        raise BackendError(
            "Prompts cannot be cleaned as the official code does. Got no package ftfy, need it. "
            f"Run 'pip install ftfy' with {sys.executable} and restart."
        ) from error
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return re.sub(r"\s+", " ", text).strip()


def negative_or_official(text: str) -> str:
    """Returns the negative prompt, or the official one if it is empty."""
    return text if text.strip() else NEGATIVE_PROMPT


def cut_tokens(tokens: list[int]) -> list[int]:
    """Returns at most 512 token ids; a prompt that is cut keeps its closing </s>."""
    if len(tokens) <= TEXT_LEN:
        return tokens
    return [*tokens[: TEXT_LEN - 1], END_TOKEN]
