"""GGUF files that are damaged or made to harm: always a CheckpointError that says why, in time."""

import struct
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.toy.gguf_files import write_dit
from tests.unit.loading.checkpoints import dit_state
from tests.unit.loading.test_refusals import FUZZ
from wan_model import detect
from wan_model.errors import CheckpointError
from wan_model.loading.source_gguf import open_gguf, read_array

U8, U32, F32, TEXT, ARRAY = 0, 4, 6, 8, 9


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def value(key: bytes, kind: int, data: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + data


def info(name: bytes = b"a", sides: Iterable[int] = (8,), kind: int = 0, offset: int = 0) -> bytes:
    sides = tuple(sides)
    return text(name) + struct.pack(f"<I{len(sides)}QIQ", len(sides), *sides, kind, offset)


def gguf_file(
    folder: Path,
    values: Iterable[bytes] = (),
    infos: Iterable[bytes] = (),
    data: int = 4096,
    *,
    start: bytes | None = None,
) -> Path:
    """Writes a file of raw header entries and so many bytes of data."""
    values, infos = list(values), list(infos)
    if start is None:
        start = b"GGUF" + struct.pack("<IQQ", 3, len(infos), len(values))
    file = folder / "a.gguf"
    file.write_bytes(start + b"".join(values) + b"".join(infos) + bytes(data))
    return file


BIG = 2**63
ALIGNED = value(b"general.alignment", U32, struct.pack("<I", 64))

BAD = {
    "nothing": ({"start": b""}, "an empty file"),
    "magic": ({"start": b"GGML"}, r"not a GGUF file. Got b'GGML', need b'GGUF'"),
    "version 1": ({"start": b"GGUF\x01\0\0\0"}, "Got version 1, need 2 or 3"),
    "big-endian": ({"start": b"GGUF\0\0\0\x03"}, "Got one of a big-endian machine"),
    "tensors": ({"start": b"GGUF" + struct.pack("<IQQ", 3, BIG, 0)}, "absurd number of entries"),
    "values": ({"start": b"GGUF" + struct.pack("<IQQ", 3, 0, BIG)}, "absurd number of entries"),
    "long key": ({"values": [struct.pack("<Q", BIG)]}, "absurd name"),
    "key without end": ({"values": [struct.pack("<Q", 1000)], "data": 9}, "header is cut off"),
    "key of no text": ({"values": [value(b"\xff", U8, b"\0")]}, "holds no text"),
    "key twice": ({"values": [value(b"k", U8, b"\0")] * 2}, "A value is there twice. Got k,"),
    "type of value": ({"values": [value(b"k", 99, b"")]}, "The value k has an unknown type"),
    "long text": ({"values": [value(b"k", TEXT, struct.pack("<Q", BIG))]}, "header is cut off"),
    "long list": (
        {"values": [value(b"k", ARRAY, struct.pack("<IQ", F32, BIG))]},
        "header is cut off",
    ),
    "list of texts": (
        {"values": [value(b"k", ARRAY, struct.pack("<IQ", TEXT, BIG))]},
        "header is cut off",
    ),
    "list of lists": (
        {"values": [value(b"k", ARRAY, struct.pack("<IQ", ARRAY, 1))]},
        "The value k has an unknown type. Got 9",
    ),
    "alignment 3": (
        {"values": [value(b"general.alignment", U32, struct.pack("<I", 48))]},
        "alignment cannot be. Got 48",
    ),
    "alignment 0": (
        {"values": [value(b"general.alignment", U32, struct.pack("<I", 0))]},
        "alignment cannot be. Got 0",
    ),
    "alignment text": (
        {"values": [value(b"general.alignment", TEXT, text(b"x" * 99))]},
        "alignment cannot be",
    ),
    "name twice": ({"infos": [info(), info(offset=32)]}, "A tensor is there twice. Got a,"),
    "overlap": ({"infos": [info(), info(b"b")]}, "Tensor b overlaps"),
    "inside": ({"infos": [info(sides=[64]), info(b"b", offset=32)]}, "Tensor b overlaps"),
    "misaligned": ({"infos": [info(offset=4)]}, "Got offset 4, need a multiple of 32"),
    "misaligned for 64": (
        {"values": [ALIGNED], "infos": [info(offset=32)]},
        "Got offset 32, need a multiple of 64",
    ),
    "type": ({"infos": [info(kind=77)]}, "Got type 77, need a known one"),
    "removed type": ({"infos": [info(kind=4)]}, "Got type 4, need a known one"),
    "rows": ({"infos": [info(sides=[33], kind=8)]}, "rows that are multiples of 32 in Q8_0"),
    "no rows": ({"infos": [info(sides=[], kind=8)]}, "rows that are multiples of 32"),
    "sides": ({"infos": [info(sides=[1] * 9)]}, "too many sides. Got 9"),
    "huge": ({"infos": [info(sides=[2**62, 2**62])]}, "need sides from 0 to"),
    "beyond the file": ({"infos": [info(sides=[2**40])]}, "Its data is cut off"),
    "offset": ({"infos": [info(offset=2**63)]}, "Its data is cut off"),
    "split": (
        {"values": [value(b"split.count", U32, struct.pack("<I", 3))], "infos": [info()]},
        "one part of a split file. Got one of 3 parts",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_headers(case: str, tmp_path: Path):
    parts, match = BAD[case]
    data = {"data": 0} if "start" in parts else {}
    with pytest.raises(CheckpointError, match=match):
        detect(gguf_file(tmp_path, **{**data, **parts}))


LONG = {
    "texts": lambda: value(b"k", ARRAY, struct.pack("<IQ", TEXT, BIG)) + bytes(5_000_000),
    "letters": lambda: value(b"k", ARRAY, struct.pack("<IQ", TEXT, BIG)) + 550_000 * text(b"x"),
    "values": lambda: b"".join(value(b"%d" % i, U8, b"\0") for i in range(200_000)),
}


@pytest.mark.parametrize("case", [*LONG, "tensors"])
def test_long_headers_take_no_time(case: str, tmp_path: Path):
    if case == "tensors":
        infos = [info(b"%d" % i, offset=32 * i) for i in range(150_000)]
        file = gguf_file(tmp_path, infos=infos)
    else:
        file = gguf_file(tmp_path, values=[LONG[case]()])
    started = time.process_time()
    with pytest.raises(CheckpointError):
        detect(file)
    assert time.process_time() - started < 2


def test_lists_are_found_without_being_read(tmp_path: Path):
    tokens, scores = [b"<pad>", b"", "\u2581a".encode()], [0.0, -1.5]
    file = gguf_file(
        tmp_path,
        values=[
            value(b"t", ARRAY, struct.pack("<IQ", TEXT, 3) + b"".join(map(text, tokens))),
            value(b"s", ARRAY, struct.pack("<IQ2f", F32, 2, *scores)),
            value(b"b", ARRAY, struct.pack("<IQ", U8, 2) + b"\1\2"),
            value(b"n", TEXT, text(b"wan")),
            value(b"long", TEXT, text(b"x" * 70_000)),
        ],
    )
    header = open_gguf(file)
    assert header.metadata == {"n": "wan"}
    found = {key: read_array(array) for key, array in header.arrays.items()}
    assert found == {"t": ["<pad>", "", "\u2581a"], "s": scores, "b": b"\1\2"}


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """One block keeps the header short and most bytes of it vital."""
    state = {k: t for k, t in dit_state().items() if not k.startswith("blocks.1.")}
    file = tmp_path_factory.mktemp("healthy") / "a.gguf"
    write_dit(file, state, "Q4_0")
    return file.read_bytes()


def test_it_is_healthy(healthy: bytes, tmp_path: Path):
    (tmp_path / "a.gguf").write_bytes(healthy)
    assert detect(tmp_path / "a.gguf").format == "Q4_0"


@FUZZ
@given(data=st.data())
def test_truncation_anywhere(healthy: bytes, tmp_path: Path, data: st.DataObject):
    file = tmp_path / "a.gguf"
    file.write_bytes(healthy[: data.draw(st.integers(0, len(healthy) - 33))])
    with pytest.raises(CheckpointError):
        detect(file)
