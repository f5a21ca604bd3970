"""A file of GGUF taken apart, so that single fields of it can be wrong and all others right."""

import struct
from dataclasses import dataclass, replace
from random import Random

from tests.fuzz.junk import NUMBERS, WORDS
from wan_model.loading.source_gguf import SCALARS, TYPES

TEXT, ARRAY, ALIGNMENT = 8, 9, 32


@dataclass(frozen=True)
class Info:
    """A tensor."""

    name: bytes
    sides: tuple[int, ...]
    kind: int
    data: bytes


@dataclass(frozen=True)
class GgufParts:
    """A file: values by key, as bytes, and tensors."""

    values: tuple[tuple[bytes, int, bytes], ...]
    """Key, type, and the rest."""
    infos: tuple[Info, ...]
    data_start: int = 0

    @classmethod
    def of(cls, content: bytes) -> "GgufParts":
        """Takes a healthy file apart."""
        read = _Reader(content)
        read.take(8)
        count, number = read.number(8), read.number(8)
        values = tuple(read.value() for _ in range(number))
        heads = [read.info() for _ in range(count)]
        start = read.place + -read.place % ALIGNMENT
        ends = [offset for *_, offset in heads[1:]] + [len(content) - start]
        infos = tuple(
            Info(name, sides, kind, content[start + offset : start + end])
            for (name, sides, kind, offset), end in zip(heads, ends, strict=True)
        )
        return cls(values, infos, start)

    def content(self) -> bytes:
        """Puts the file together."""
        head = b"GGUF" + struct.pack("<IQQ", 3, len(self.infos), len(self.values))
        for key, kind, rest in self.values:
            head += struct.pack("<Q", len(key)) + key + struct.pack("<I", kind) + rest
        offset, data = 0, b""
        for info in self.infos:
            head += struct.pack("<Q", len(info.name)) + info.name
            sides = [side % (1 << 64) for side in info.sides]
            head += struct.pack(f"<I{len(sides)}Q", len(sides), *sides)
            head += struct.pack("<IQ", info.kind % (1 << 32), offset)
            piece = info.data + bytes(-len(info.data) % ALIGNMENT)
            data, offset = data + piece, offset + len(piece)
        return head + bytes(-len(head) % ALIGNMENT) + data

    def spoiled(self, random: Random) -> "GgufParts":
        """Returns it with a few fields changed."""
        parts = self
        for _ in range(random.choice((1, 1, 2, 4))):
            parts = parts._value(random) if random.random() < 0.3 else parts._tensor(random)
        return parts

    def _value(self, random: Random) -> "GgufParts":
        if not self.values:
            return self
        place = random.randrange(len(self.values))
        key, kind, rest = self.values[place]
        others = self.values[:place] + self.values[place + 1 :]
        match random.randrange(4):
            case 0:
                return replace(self, values=others)
            case 1:
                number = struct.pack("<Q", random.choice(NUMBERS) % (1 << 64))
                return replace(self, values=(*others, (key, kind, number + rest[8:])))
            case 2:
                return replace(self, values=(*self.values, (key, kind, rest)))
            case _:
                raw = random.randbytes(1 + len(rest) // 2)
                return replace(self, values=(*others, (key, random.choice((0, 4, 8, 9, 99)), raw)))

    def _tensor(self, random: Random) -> "GgufParts":
        if not self.infos:
            return self
        place = random.randrange(len(self.infos))
        info, others = self.infos[place], self.infos[:place] + self.infos[place + 1 :]
        match random.randrange(7):
            case 0:
                return replace(self, infos=others)
            case 1:
                info = replace(info, kind=random.choice((*TYPES, 99, -1)))
            case 2:
                info = replace(info, sides=info.sides[::-1])
            case 3:
                side = random.choice((*NUMBERS, 32, 64, 256))
                info = replace(info, sides=(*info.sides[:-1], side))
            case 4:
                info = replace(info, name=random.choice((*others, info)).name)
            case 5:
                word = random.choice(WORDS).encode("utf-8", "surrogatepass")
                info = replace(info, name=info.name[:-3] + word)
            case _:
                info = replace(info, data=random.randbytes(len(info.data)))
        return replace(self, infos=(*others, info))


class _Reader:
    """Reads a healthy file's fields in turn."""

    def __init__(self, content: bytes) -> None:
        self.content, self.place = content, 0

    def take(self, count: int) -> bytes:
        self.place += count
        return self.content[self.place - count : self.place]

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width), "little")

    def text(self) -> bytes:
        return self.take(self.number(8))

    def value(self) -> tuple[bytes, int, bytes]:
        key, kind, start = self.text(), self.number(4), self.place
        self._skip(kind)
        return key, kind, self.content[start : self.place]

    def _skip(self, kind: int) -> None:
        if kind == TEXT:
            self.text()
        elif kind == ARRAY:
            item, count = self.number(4), self.number(8)
            for _ in range(count if item == TEXT else 0):
                self.text()
            self.take(0 if item == TEXT else count * struct.calcsize("<" + SCALARS[item]))
        else:
            self.take(struct.calcsize("<" + SCALARS[kind]))

    def info(self) -> tuple[bytes, tuple[int, ...], int, int]:
        name, count = self.text(), self.number(4)
        sides = struct.unpack(f"<{count}Q", self.take(8 * count))
        return name, sides, self.number(4), self.number(8)
