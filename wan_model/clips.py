"""Videos that follow each other as streams of frames: overlaps, colours, loops.

Shape legend: B clips at once, C latent channels, T latent frames, h x w latent pixels, n frames of
video of H x W pixels.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

WARM_UP = 4
"""Latent frames that a decoder sees before those that are kept, where it cannot start earlier."""


def ramp(count: int) -> Tensor:
    """Returns the share of the later one of two clips in frames that both have, fp32 [count]."""
    return torch.arange(1, count + 1) / (count + 1)


def splice(
    parts: Iterable[Iterator[Tensor]],
    overlaps: Sequence[int],
    *,
    crossfade: bool,
    match_colours: bool,
) -> Iterator[Tensor]:
    """Joins streams of frames whose first frames repeat the last ones of the stream before.

    Holds as many frames as overlap, and what arrives at once.

    Args:
        parts: streams of frames (n, H, W, 3) in [0, 1].
        overlaps: frames that each but the first repeats; the earlier stream's are kept.
        crossfade: go over from one to the next in these frames instead.
        match_colours: bring each stream's colours to mean and spread of the last frames before.

    Yields:
        Frames (n, H, W, 3).
    """
    held: Tensor | None = None
    for number, part in enumerate(parts):
        frames = part
        if held is not None:
            overlap = overlaps[number - 1]
            new, frames = _take(frames, max(overlap, 1))
            if match_colours:
                change = _colour_change(new, held[-len(new) :])
                new, frames = change(new), map(change, frames)
            if overlap and crossfade:
                share = ramp(len(new)).view(-1, 1, 1, 1).to(new)
                if len(held) > len(new):
                    yield held[: -len(new)]
                yield held[-len(new) :] * (1 - share) + new * share
            else:
                yield held
            frames = frames if overlap else _chained(new, frames)
        count = overlaps[number] if number < len(overlaps) else 0
        held = yield from _hold_back(frames, max(count, 1))
    if held is not None:
        yield held


def _take(frames: Iterator[Tensor], count: int) -> tuple[Tensor, Iterator[Tensor]]:
    """Returns the first frames of a stream, and the stream of all others."""
    taken: list[Tensor] = []
    while sum(map(len, taken)) < count and (part := next(frames, None)) is not None:
        taken.append(part)
    first = torch.cat(taken)
    return first[:count], _chained(first[count:], frames)


def _chained(first: Tensor, rest: Iterator[Tensor]) -> Iterator[Tensor]:
    if len(first):
        yield first
    yield from rest


def _hold_back(frames: Iterator[Tensor], count: int) -> Iterator[Tensor]:
    """Yields a stream but its last frames, which are returned."""
    held: Tensor | None = None
    for part in frames:
        held = part if held is None else torch.cat((held, part))
        if len(held) > count:
            yield held[:-count]
            held = held[-count:]
    return held


def _colour_change(source: Tensor, target: Tensor) -> Callable[[Tensor], Tensor]:
    """Returns what brings frames from the colours of `source` to those of `target`."""
    dims = (0, 1, 2)
    middle, level = source.mean(dims), target.mean(dims)
    scale = target.std(dims) / source.std(dims).clamp(min=1e-3)
    return lambda frames: ((frames - middle) * scale + level).clamp(0, 1)


def with_warm_up(latent: Tensor) -> tuple[Tensor, int]:
    """Returns a loop's latent with its end before its beginning, and frames of video to drop.

    What is left are four frames for every latent frame, since none is the first.
    """
    count = min(WARM_UP, latent.shape[2])
    return torch.cat((latent[:, :, -count:], latent), dim=2), 4 * count - 3


def drop_first(frames: Iterator[Tensor], count: int) -> Iterator[Tensor]:
    """Yields a stream of frames without its first ones."""
    for part in frames:
        if len(part) > count:
            yield part[count:]
        count = max(0, count - len(part))
