"""Clips by number, random numbers by step, and a pool of examples that is renewed bit by bit.

Everything is a function of the seed and of a number, so that a run that was stopped goes on with
what it would have seen.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .config import ClipRecipe
from .scenes import SAMPLERS, Scene, Stream, caption, render

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Clips:
    """The clips of one split ("train" or "val"), numbered from 0."""

    recipe: ClipRecipe
    seed: int
    split: str
    device: torch.device

    def scenes(self, first: int, count: int) -> list[Scene]:
        """Returns the scenes with numbers `first` to `first + count - 1`."""
        sample = SAMPLERS[self.recipe.scenes]
        return [sample(self.seed, first + i, self.split) for i in range(count)]

    def render(self, scenes: list[Scene]) -> Tensor:
        """Returns fp32 (B, 3, T, H, W) in [-1, 1]."""
        return render(scenes, self.recipe.frames, self.recipe.size_px, self.device)

    def caption(self, scene: Scene, number: int, variant: int) -> str:
        """Returns caption `variant` of scene `number`."""
        return caption(scene, Stream(self.seed, "caption", self.split, number, variant))


def generator(device: torch.device, *key: object) -> torch.Generator:
    """Returns a source of random numbers of its own for each key."""
    seed = zlib.crc32(" ".join(map(str, key)).encode())
    return torch.Generator(device).manual_seed(seed)


class Ring:
    """A pool of examples made in groups; after every few steps the oldest group is replaced.

    At step s it holds groups s // refresh_steps and the following ones, whatever happened before.
    """

    def __init__(self, make: Callable[[int], Batch], groups: int, refresh_steps: int) -> None:
        """Makes nothing yet.

        Args:
            make: returns the examples of a group by its number; always as many.
            groups: how many are held.
            refresh_steps: steps after which one is replaced.
        """
        self.make, self.groups, self.refresh_steps = make, groups, refresh_steps
        self.tensors: Batch = {}
        self.next_group = 0

    def advance(self, step: int) -> Batch:
        """Returns all examples held at `step`; steps must not fall."""
        first = step // self.refresh_steps
        for group in range(max(first, self.next_group), first + self.groups):
            self._put(group, self.make(group))
        self.next_group = first + self.groups
        return self.tensors

    def _put(self, group: int, examples: Batch) -> None:
        slot = group % self.groups
        for name, part in examples.items():
            if name not in self.tensors:
                shape = (self.groups * len(part), *part.shape[1:])
                self.tensors[name] = torch.empty(shape, dtype=part.dtype, device=part.device)
            self.tensors[name][slot * len(part) : (slot + 1) * len(part)] = part
