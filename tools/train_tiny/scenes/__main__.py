"""Writes a contact sheet of captioned clips: `python -m tools.train_tiny.scenes sheet.png`."""

import argparse
from pathlib import Path

from . import SAMPLERS, SPLITS, Stream, caption, render
from .sheet import contact_sheet


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.train_tiny.scenes", description=__doc__)
    parser.add_argument("output", type=Path, help="PNG to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", choices=SPLITS, default="train")
    parser.add_argument("--scenes", choices=tuple(SAMPLERS), default="rich")
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--frames", type=int, default=17)
    parser.add_argument("--size", type=int, default=128)
    arguments = parser.parse_args()
    seed, split = arguments.seed, arguments.split
    scenes = [SAMPLERS[arguments.scenes](seed, index, split) for index in range(arguments.clips)]
    captions = [caption(scene, Stream(seed, "caption", n)) for n, scene in enumerate(scenes)]
    videos = render(scenes, arguments.frames, arguments.size)
    contact_sheet(videos, captions, arguments.output)


if __name__ == "__main__":
    main()
