"""From a healthy file to one that somebody broke, by accident or on purpose; the same every time.

Three depths. Changed bytes and headers are what the parsers meet; files that are valid and hold the
wrong tensors get past them, to what builds a model.
"""

import json
import math
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from tests.fuzz.gguf_parts import GgufParts
from tests.fuzz.junk import WORDS, junk, spoiled_bytes, spoiled_json
from wan_model.loading.source_safetensors import BITS

SMALL_SIDES = (0, 1, 2, 3, 16, 31, 64, 128, 256)

NOTES = (
    {"format": "float8_e4m3fn"},
    {"format": "nvfp4"},
    {"format": "mxfp8"},
    {"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": 64},
    {"format": "convrot_w4a4", "convrot_groupsize": 16},
    {"format": "asym_w4a8_int8", "params": {"convrot_groupsize": 0}},
)


@dataclass(frozen=True)
class Entry:
    """A tensor in a file of safetensors."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes

    @property
    def need(self) -> int:
        """Bytes that dtype and shape ask for, rounded up."""
        return -(-math.prod(self.shape) * BITS[self.dtype] // 8)

    def fitted(self) -> "Entry":
        """Returns the same with as many bytes as it should have, unless those would be a lot."""
        need = min(self.need, 1 << 20)
        data = (
            (self.data * (1 + need // max(1, len(self.data))))[:need] if self.data else bytes(need)
        )
        return replace(self, data=data)


def spoiled(name: str, data: bytes, random: Random) -> bytes:
    """Returns the content of a file in a broken form."""
    if not data:
        return data
    if random.random() < 0.02:
        return random.choice(
            (b"", b"<html>", b"PK\x03\x04", b"version https://", random.randbytes(99))
        )
    if name.endswith(".json"):
        if random.random() < 0.2:
            return spoiled_bytes(data, random, len(data))
        return spoiled_json(json.loads(data), random, random.choice((1, 1, 2, 5)))
    if name.endswith(".gguf"):
        if random.random() < 0.5:
            return spoiled_bytes(data, random, GgufParts.of(data).data_start)
        return GgufParts.of(data).spoiled(random).content()
    return _spoiled_safetensors(data, random)


def _spoiled_safetensors(data: bytes, random: Random) -> bytes:
    length = int.from_bytes(data[:8], "little")
    depth = random.random()
    if depth < 0.2:
        return spoiled_bytes(data, random, 8 + length)
    header = json.loads(data[8 : 8 + length])
    if depth < 0.4:
        text = spoiled_json(header, random, random.choice((1, 1, 2, 5)))
        return len(text).to_bytes(8, "little") + text + data[8 + length :]
    metadata = header.pop("__metadata__", {})
    entries = [_entry(name, fields, data[8 + length :]) for name, fields in header.items()]
    for _ in range(random.choice((1, 1, 2, 4))):
        entries = _changed(entries, random)
    if random.random() < 0.1:
        metadata = _changed_metadata(metadata, random)
    return _written(entries, metadata)


def _entry(name: str, fields: dict[str, Any], data: bytes) -> Entry:
    begin, end = fields["data_offsets"]
    return Entry(name, fields["dtype"], tuple(fields["shape"]), data[begin:end])


def _changed(entries: list[Entry], random: Random) -> list[Entry]:
    """Returns tensors of which one is another, gone or new."""
    if not entries:
        return entries
    place = random.randrange(len(entries))
    entry, rest = entries[place], entries[:place] + entries[place + 1 :]
    match random.choices(range(9), (1, 1, 3, 1, 1, 1, 1, 1, 1))[0]:
        case 0:
            return rest
        case 1:
            return [*rest, replace(entry, dtype=random.choice(list(BITS))).fitted()]
        case 2:
            return [*rest, replace(entry, shape=_shape(entry.shape, random)).fitted()]
        case 3:
            return [*rest, replace(entry, name=_name(entry.name, entries, random))]
        case 4:
            return [*entries, replace(entry, name=_name(entry.name, entries, random))]
        case 5:
            return [*rest, replace(entry, data=_numbers(entry, random))]
        case 6:
            other = random.choice(entries)
            return [*rest, replace(other, name=entry.name)]
        case 7:
            note = random.choice(NOTES) if random.random() < 0.6 else junk(random)
            text = json.dumps(note).encode()
            layer = entry.name.rpartition(".")[0]
            return [*entries, Entry(f"{layer}.comfy_quant", "U8", (len(text),), text)]
        case _:
            leaf = random.choice(("weight_scale", "weight_scale_2", "scale_weight", "input_scale"))
            shape = random.choice(((), (1,), entry.shape[:1], (*entry.shape[:1], 1), (0,), (2, 2)))
            scale = Entry(f"{entry.name.rpartition('.')[0]}.{leaf}", "F32", shape, b"\0\0\0\x40")
            return [*entries, scale.fitted()]


def _shape(shape: tuple[int, ...], random: Random) -> tuple[int, ...]:
    sides = list(shape)
    place = random.randrange(len(sides)) if sides else 0
    match random.randrange(6):
        case 0:
            return tuple(sides[::-1])
        case 1:
            return (*sides, 1)
        case 2:
            return (math.prod(sides),)
        case 3 if sides:
            sides[place] += random.choice((-1, 1))
        case 4 if sides:
            del sides[place]
        case _ if sides:
            sides[place] = random.choice(SMALL_SIDES)
    return tuple(max(0, side) for side in sides)


def _name(name: str, entries: list[Entry], random: Random) -> str:
    other = random.choice(entries).name
    layer, _, leaf = name.rpartition(".")
    return (
        random.choice(
            (
                f"{layer}.{other.rpartition('.')[2]}",
                f"{other.rpartition('.')[0]}.{leaf}",
                name.replace("0", random.choice(("1", "9999", "9" * 400, "-1", ""))),
                f"model.diffusion_model.{name}",
                f"{name}.{random.choice(WORDS)}",
                name[:-1],
            )
        )
        .encode("utf-8", "replace")
        .decode()
    )


def _numbers(entry: Entry, random: Random) -> bytes:
    """Returns other data: NaN, zeros, huge, or any."""
    fill = random.choice((b"\xff", b"\x7f", b"\0", b"\x80", random.randbytes(8)))
    whole = (fill * len(entry.data))[: len(entry.data)]
    return (
        whole
        if random.random() < 0.5
        else entry.data[: len(entry.data) // 2] + whole[len(entry.data) // 2 :]
    )


def _changed_metadata(metadata: dict[str, Any], random: Random) -> dict[str, Any]:
    notes = {"layers": {"blocks.0.self_attn.q": random.choice((*NOTES, junk(random)))}}
    adapter = {"r": junk(random), "lora_alpha": junk(random), "alpha_pattern": junk(random)}
    return metadata | random.choice(
        (
            {"_quantization_metadata": json.dumps(notes)},
            {"_quantization_metadata": str(junk(random))},
            {"lora_adapter_metadata": json.dumps(adapter)},
            {"format": junk(random)},
        )
    )


def _written(entries: list[Entry], metadata: dict[str, Any]) -> bytes:
    """Returns a file whose header is right for its tensors, as far as they can be."""
    fields: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    end, chunks = 0, []
    for entry in entries:
        fields[entry.name] = {
            "dtype": entry.dtype,
            "shape": entry.shape,
            "data_offsets": (end, end + len(entry.data)),
        }
        end += len(entry.data)
        chunks.append(entry.data)
    text = json.dumps(fields).encode()
    return len(text).to_bytes(8, "little") + text + b"".join(chunks)
