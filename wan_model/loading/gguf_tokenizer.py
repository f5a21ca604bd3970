"""The tokenizer in the header of a umT5 file of GGUF, as the sentencepiece model that it was.

llama.cpp takes a model apart into lists; sentencepiece wants it in one piece, a protobuf message.
Sources: `sentencepiece_model.proto` of sentencepiece, `convert_hf_to_gguf.py` of llama.cpp.
"""

import struct
from pathlib import Path

from ..errors import CheckpointError
from ..unreadable import unreadable
from .source_gguf import GgufSource, open_gguf, read_array

LIST = "tokenizer.ggml."

PIECES, TRAINER, NORMALIZER = 1, 2, 3
"""Fields of the model."""
UNIGRAM = 1
BYTE = 6
"""Of the types of pieces, which have the same numbers in both."""


def sentencepiece_model(file: Path) -> bytes | None:
    """Returns the tokenizer of a file as a serialized sentencepiece model, if it has one.

    Raises:
        CheckpointError: if it is broken, or the file cannot be read.
        ShortageError: if there is no memory for it, or no file handle.
    """
    try:
        return _model(file)
    except (MemoryError, OSError) as error:
        raise unreadable(file.name, error, "Check the path and its permissions.") from error


def _model(file: Path) -> bytes | None:
    header = open_gguf(file)
    tokens, scores, types = (_list(header, name) for name in ("tokens", "scores", "token_type"))
    if not tokens and not scores:
        return None
    if not len(tokens) == len(scores) == len(types):
        sizes = f"{len(tokens)} tokens, {len(scores)} scores and {len(types)} types"
        raise CheckpointError(
            f"{file.name} holds no whole tokenizer. Got {sizes}, need as many of each. Choose "
            "another version of the text encoder."
        )
    pieces = [
        _field(PIECES, _piece(str(token), float(score), int(kind)))
        for token, score, kind in zip(tokens, scores, types, strict=True)
    ]
    trainer = _number(3, UNIGRAM) + _number(4, len(pieces)) + _number(35, BYTE in types)
    for field, key, usual in ((40, "unknown", 2), (41, "bos", -1), (42, "eos", 1)):
        trainer += _number(field, _integer(header, f"{key}_token_id", usual))
    trainer += _number(43, _integer(header, "padding_token_id", 0))
    normalizer = _number(3, _flag(header, "add_space_prefix"))
    normalizer += _number(4, _flag(header, "remove_extra_whitespaces"))
    charsmap = header.arrays.get(f"{LIST}precompiled_charsmap")
    if charsmap is not None:
        content = read_array(charsmap)
        normalizer = _field(2, content if isinstance(content, bytes) else b"") + normalizer
    return b"".join(pieces) + _field(TRAINER, trainer) + _field(NORMALIZER, normalizer)


def _list(header: GgufSource, name: str) -> list[str] | list[int] | list[float] | bytes:
    array = header.arrays.get(LIST + name)
    return [] if array is None else read_array(array)


def _integer(header: GgufSource, name: str, usual: int) -> int:
    text = header.metadata.get(LIST + name, "")
    return int(text) if text.lstrip("-").isdecimal() and len(text) < 12 else usual


def _flag(header: GgufSource, name: str) -> bool:
    return header.metadata.get(LIST + name, "True") == "True"


def _piece(text: str, score: float, kind: int) -> bytes:
    return _field(1, text.encode()) + b"\x15" + struct.pack("<f", score) + _number(3, kind)


def _field(number: int, content: bytes) -> bytes:
    """Returns a protobuf field of bytes, text or a message."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _number(number: int, value: int) -> bytes:
    """Returns a protobuf field of an integer."""
    return _varint(number << 3) + _varint(value % (1 << 64))


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    parts.append(value)
    return bytes(parts)
