"""Draws the moving image at the top of README.md: `python -m tools.make_moving_image`.

Four clips of wan22-tiny side by side, each played forwards and backwards, as one animated WebP.
They are made by `wan_model` alone, on the CPU, in a minute or two.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from .contact_sheet import frame_grid
from .tiny_generate import decode, generate, load_tiny

ROOT = Path(__file__).parents[1]

CLIPS = (
    ("a blue circle moves right on a beige background", 0),
    ("a yellow ring grows on a navy background", 0),
    ("a green square moves down on a white background", 0),
    ("a cyan triangle moves up", 0),
)
"""Prompts and seeds whose shapes stay themselves."""

SIDE_PX, GAP_PX, MILLISECONDS = 200, 8, 62


def draw(clips: Sequence[tuple[str, int]], steps: int) -> list[Image.Image]:
    """Returns the frames of all clips side by side."""
    wan = load_tiny(ROOT / "models", "t2v")
    rows = []
    for prompt, seed in clips:
        video = decode(wan.vae, generate(wan, [prompt], steps=steps, seed=seed))[0]
        frames = (frame_grid(video[:, [index]], columns=1) for index in range(video.shape[1]))
        rows.append([f.resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC) for f in frames])
    return [_beside(frames) for frames in zip(*rows, strict=True)]


def _beside(frames: Sequence[Image.Image]) -> Image.Image:
    strip = Image.new("RGB", (len(frames) * (SIDE_PX + GAP_PX) - GAP_PX, SIDE_PX), "white")
    for number, frame in enumerate(frames):
        strip.paste(frame, (number * (SIDE_PX + GAP_PX), 0))
    return strip


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.make_moving_image", description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "wan22-tiny.webp")
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    frames = draw(CLIPS, arguments.steps)
    looped = [*frames, *frames[-2:0:-1]]
    more = {"append_images": looped[1:], "duration": MILLISECONDS, "loop": 0}
    looped[0].save(arguments.output, save_all=True, quality=70, method=6, **more)


if __name__ == "__main__":
    main()
