"""Draws the moving image at the top of README.md: `python -m tools.make_moving_image`.

Four clips of wan22-tiny side by side, each played forwards and backwards, as one animated WebP.
They are made by `wan_model` alone, on the CPU, in a minute or two.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from .montage import beside, save_webp
from .tiny_generate import decode, generate, load_tiny

ROOT = Path(__file__).parents[1]

CLIPS = (
    ("a blue circle moves right on a beige background", 0),
    ("a yellow triangle moves up on a dark grey background", 0),
    ("a cyan square moves left on a navy background", 0),
    ("a yellow ring grows on a navy background", 0),
)
"""Prompts and seeds whose shapes stay themselves."""

GUIDANCE = 3.0
"""That of the template."""


def make(clips: Sequence[tuple[str, int]], steps: int) -> list[Tensor]:
    """Returns the videos, [3, T, H, W] each."""
    wan = load_tiny(ROOT / "models", "ti2v", guidance=GUIDANCE)
    return [
        decode(wan.vae, generate(wan, [prompt], steps=steps, seed=seed))[0]
        for prompt, seed in clips
    ]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.make_moving_image", description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "wan22-tiny.webp")
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    save_webp(beside(make(CLIPS, arguments.steps)), arguments.output)


if __name__ == "__main__":
    main()
