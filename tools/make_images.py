"""Draws the templates' images: `python -m tools.make_images [FOLDER]`.

The images that templates animate, and their thumbnails, which move. Those of the tiny templates are
the demo's videos, if FOLDER holds them; the others are a painted lake, not a model's result.

The editor asks for thumbnails of custom nodes as .jpg alone, and shows what is in the file: an
animated WebP.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import av
from PIL import Image, ImageDraw

from .contact_sheet import frame_grid
from .lake import paint_lake
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

LAKES = {
    "Wan 2.2 Text to Video 14B": (0.86, 0.95),
    "Wan 2.2 Image to Video 14B": (0.0, 0.09),
    "Wan 2.2 First and Last Frame to Video 14B": (0.0, 1.0),
    "Wan 2.2 Video to Video 14B": (0.0, 0.12),
    "Wan 2.2 Inpaint Video 14B": (0.3, 0.42),
    "Wan 2.2 Timed Prompts 14B": (0.2, 0.9),
    "Wan 2.2 Regional Prompts 14B": (0.55, 0.64),
    "Wan 2.2 LoRA Strength per Step 14B": (0.7, 0.8),
    "Wan 2.2 Text to Video 5B": (0.4, 0.49),
    "Wan 2.2 Image to Video 5B": (0.0, 0.09),
    "Wan 2.2 Long Video (Context Windows) 14B": (0.3, 0.75),
    "Wan 2.2 Long Video (Continued Clips) 14B": (0.0, 0.3),
    "Wan 2.2 Long Video (SVI 2 Pro) 14B": (0.0, 0.45),
    "Wan 2.2 Seamless Loop 14B": (0.5, 0.56),
}
"""The part of the day that a thumbnail shows."""

FRAMES, SIZE = 20, (480, 270)


def draw_inputs(folder: Path) -> None:
    """Writes the images that the templates animate."""
    folder.mkdir(exist_ok=True)
    frame_grid(scenes.render([CIRCLE], frames=1)[0], columns=1).save(
        folder / "wan22-tiny-circle.png"
    )
    for name, time in (("morning", 0.0), ("dusk", 1.0)):
        paint_lake(time, 1280, 720).save(folder / f"wan22-lake-{name}.jpg", quality=85)
    draw_masks(folder)
    draw_video(folder / "wan22-lake.mp4")


def draw_masks(folder: Path) -> None:
    """Writes images whose transparent parts are masks: the boat's way, and the left half."""
    for name, box in (("lake-boat", (240, 410, 670, 650)), ("left-half", (-640, -720, 640, 1440))):
        alpha = Image.new("L", (1280, 720), 255)
        draw = ImageDraw.Draw(alpha)
        shape = draw.ellipse if name == "lake-boat" else draw.rectangle
        shape(box, fill=0)
        mask = paint_lake(0.0, 1280, 720).convert("RGB").resize((640, 360))
        mask.putalpha(alpha.resize((640, 360)))
        mask.save(folder / f"wan22-{name}.png", optimize=True)


def draw_video(path: Path) -> None:
    """Writes five seconds of the lake."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=16, options={"crf": "26"})
        stream.width, stream.height, stream.pix_fmt = 832, 480, "yuv420p"
        for index in range(81):
            image = paint_lake(0.3 * index / 80, 832, 480)
            file.mux(stream.encode(av.VideoFrame.from_image(image)))
        file.mux(stream.encode())


def save_animation(frames: Sequence[Image.Image], path: Path, milliseconds: int) -> None:
    """Writes a looping WebP, whatever the path ends with; it stays a moment on the last frame."""
    times = [milliseconds] * (len(frames) - 1) + [6 * milliseconds]
    more = {"append_images": frames[1:], "duration": times, "loop": 0}
    frames[0].save(path, format="WEBP", save_all=True, quality=60, method=6, **more)


def lake_frames(start: float, end: float) -> list[Image.Image]:
    """Returns frames of the lake."""
    times = (start + (end - start) * index / (FRAMES - 1) for index in range(FRAMES))
    return [paint_lake(time, 960, 540).resize(SIZE, Image.Resampling.LANCZOS) for time in times]


def video_frames(path: Path) -> list[Image.Image]:
    """Returns all frames of a video, twice as large."""
    video = read_video(path)
    frames = (frame_grid(video[:, [index]], columns=1) for index in range(video.shape[1]))
    return [frame.resize((256, 256), Image.Resampling.BICUBIC) for frame in frames]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.make_images", description=__doc__)
    parser.add_argument("videos", nargs="?", type=Path, help="output folder of the demo")
    videos: Path | None = parser.parse_args().videos
    draw_inputs(WORKFLOWS / "input")
    for name, times in LAKES.items():
        save_animation(lake_frames(*times), WORKFLOWS / f"{name}.jpg", 120)
    if videos is not None:
        for template in sorted(WORKFLOWS.glob("Wan 2.2 Tiny *.json")):
            frames = video_frames(videos / f"{template.stem}.mp4")
            save_animation(frames, template.with_suffix(".jpg"), 62)


if __name__ == "__main__":
    main()
