"""Draws the images of the wan22-tiny templates: `python -m tools.make_images [FOLDER]`.

The image that the templates animate, and, if FOLDER holds the demo's videos, the templates'
thumbnails: four frames each.
"""

import argparse
from pathlib import Path

import torch

from .contact_sheet import frame_grid
from .tiny_score import read_video
from .train_tiny import scenes

WORKFLOWS = Path(__file__).parents[1] / "workflows"

CIRCLE = scenes.Scene(
    (
        scenes.Thing(
            colour="blue",
            shape="circle",
            motion="still",
            path=scenes.Path(),
            x=-0.2,
            y=0.2,
            radius=0.17,
            angle=0.0,
        ),
    ),
    scenes.Background("plain", "beige", "beige"),
)
"""At the lower left, so that it has room to move right and up."""


def draw_circle(path: Path) -> None:
    """Writes the image that the templates animate."""
    path.parent.mkdir(exist_ok=True)
    frame_grid(scenes.render([CIRCLE], frames=1)[0], columns=1).save(path)


def draw_thumbnail(video: Path, path: Path) -> None:
    """Writes four frames of a video, the first and the last among them."""
    frames = read_video(video)
    picked = torch.linspace(0, frames.shape[1] - 1, 4).round().long()
    frame_grid(frames[:, picked], columns=2).save(path, quality=90)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.make_images", description=__doc__)
    parser.add_argument("videos", nargs="?", type=Path, help="output folder of the demo")
    videos: Path | None = parser.parse_args().videos
    draw_circle(WORKFLOWS / "input" / "wan22-tiny-circle.png")
    if videos is not None:
        for template in sorted(WORKFLOWS.glob("wan22_tiny_*.json")):
            draw_thumbnail(videos / f"{template.stem}.mp4", template.with_suffix(".jpg"))


if __name__ == "__main__":
    main()
