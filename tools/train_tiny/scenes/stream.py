"""Random numbers that depend on nothing but their keys."""

import zlib
from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")

_BITS = 0xFFFFFFFFFFFFFFFF
_GOLDEN = 0x9E3779B97F4A7C15


def _mix(value: int) -> int:
    """One step of splitmix64 (Steele, Lea, Flood 2014): scrambles 64 bits."""
    value = (value + _GOLDEN) & _BITS
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & _BITS
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & _BITS
    return value ^ (value >> 31)


class Stream:
    """A stream of random numbers, the same on every machine and Python version.

    The n-th number is a hash of the keys and n, so streams of neighbouring keys are independent.

    Args:
        keys: whole numbers or words, such as a seed, a purpose and an index.
    """

    def __init__(self, *keys: int | str) -> None:
        self._key = 0
        for key in keys:
            number = zlib.crc32(key.encode()) if isinstance(key, str) else key
            self._key = _mix(self._key ^ _mix(number & _BITS))
        self._count = 0

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """Returns a number in [low, high)."""
        self._count += 1
        fraction = (_mix(self._key + self._count * _GOLDEN) >> 11) * 2.0**-53
        return low + (high - low) * fraction

    def chance(self, probability: float) -> bool:
        """Returns True with the given probability."""
        return self.uniform() < probability

    def pick(self, items: Sequence[Item]) -> Item:
        """Returns one of the items."""
        return items[int(self.uniform() * len(items))]

    def sign(self) -> int:
        """Returns 1 or -1."""
        return 1 if self.chance(0.5) else -1
