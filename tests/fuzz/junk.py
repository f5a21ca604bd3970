"""Values that no honest writer gives, and where a JSON text may take them."""

import json
from random import Random
from typing import Any

NUMBERS = (0, 1, -1, 2, 3, 7, 127, 128, 2**31, 2**32 - 1, 2**48, 2**63 - 1, 2**64, 10**40)

WORDS = (
    "",
    "F32",
    "F8_E4M3",
    "I8",
    "U8",
    "nvfp4",
    "convrot_w4a4",
    "float8_e4m3fn",
    "a" * 5000,
    "\ud800",
    "a\nb\x00c",
    "../outside.safetensors",
    "/etc/hostname",
    "C:\\outside.safetensors",
    "m.safetensors",
    ".",
    "\u4e24\u53ea",
    "None",
)

RAW = (
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "0.5",
    "1e-308",
    "9" * 5000,
    "-" + "9" * 5000,
    "[" * 2000 + "]" * 2000,
    '{"a":' * 3000 + "1" + "}" * 3000,
    "[" + "7," * 400 + "7]",
    '"\\ud800"',
    "nul",
    "{",
)
"""JSON, or what looks like it, that Python's writer cannot be asked for."""


def junk(random: Random) -> Any:
    """Returns a value of any type."""
    return random.choice(
        (
            random.choice(NUMBERS),
            random.choice(WORDS),
            random.choice((None, True, False, [], {}, [[]], [0], [1, 2, 3], 0.5)),
        )
    )


def spoiled_json(tree: Any, random: Random, times: int) -> bytes:
    """Returns a JSON text with some of its values changed, and perhaps one that is none."""
    for _ in range(times):
        tree = _changed(tree, random)
    text = json.dumps(tree, ensure_ascii=random.random() < 0.8)
    if random.random() < 0.25:
        places = [
            place for place in (text.find(":"), text.rfind(":"), text.rfind(",")) if place > 0
        ]
        place = random.choice(places or [0])
        text = text[: place + 1] + random.choice(RAW) + random.choice((",", "")) + text[place + 1 :]
    elif random.random() < 0.1 and isinstance(tree, dict) and tree:
        name = random.choice(list(tree))
        text = text[:-1] + f", {json.dumps(name)}: {json.dumps(tree[name])}" + "}"
    return text.encode("utf-8", "surrogatepass")


def _changed(tree: Any, random: Random) -> Any:
    """Returns a tree with one node changed, gone, doubled or moved."""
    if random.random() < 0.02 or not isinstance(tree, (dict, list)) or not tree:
        return junk(random)
    keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
    key = random.choice(keys)
    copy = tree.copy()
    action = random.random()
    if action < 0.65 and isinstance(copy[key], (dict, list)) and copy[key]:
        copy[key] = _changed(copy[key], random)
    elif action < 0.8:
        copy[key] = junk(random)
    elif action < 0.85:
        copy[key], other = copy[random.choice(keys)], copy[key]
        copy[random.choice(keys)] = other
    elif isinstance(copy, dict) and action < 0.93:
        copy[random.choice((str(junk(random)), f"{key}x", str(key)[:-1]))] = copy.pop(key)
    else:
        del copy[key]
    return copy


def spoiled_bytes(data: bytes, random: Random, end: int) -> bytes:
    """Returns bytes of which some in the first `end` are changed, gone or doubled, or all cut."""
    raw, end = bytearray(data), max(1, min(end, len(data)))
    action = random.random()
    if action < 0.2:
        return bytes(raw[: random.randrange(len(raw))])
    if action < 0.3:
        return bytes(raw) + random.randbytes(random.choice((1, 8, 1000)))
    if action < 0.4:
        place, count = random.randrange(end), random.choice((1, 8, 64))
        return bytes(raw[:place] + raw[place + count :])
    if action < 0.5:
        place, count = random.randrange(end), random.choice((1, 8, 64))
        return bytes(raw[:place] + raw[place : place + count] * 2 + raw[place + count :])
    for _ in range(random.choice((1, 1, 2, 4, 16))):
        place = random.randrange(end)
        if random.random() < 0.5:
            raw[place] = random.randrange(256)
        else:
            width = random.choice((1, 4, 8))
            value = random.choice(NUMBERS) % (1 << 8 * width)
            raw[place : place + width] = value.to_bytes(width, "little")
    return bytes(raw)
