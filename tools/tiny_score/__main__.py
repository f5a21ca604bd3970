"""Command line: says what a video shows, and whether it is what a prompt asks for."""

import argparse
import sys
from pathlib import Path

from .detect import Detected, detect
from .expect import PromptError, expect
from .score import Score, compare, psnr
from .video_file import read_video


def main() -> int:
    """Scores one video; exit code 0 if everything is right, 1 if not, 2 for a wrong argument."""
    parser = argparse.ArgumentParser(prog="python -m tools.tiny_score", description=__doc__)
    parser.add_argument("video", type=Path, help="video file, or tensor (.npy, .safetensors)")
    parser.add_argument("--prompt", help='such as "a red ball rolls to the left"')
    parser.add_argument("--reference", type=Path, help="another video: print the PSNR to it")
    parser.add_argument("--first-frame", type=Path, help="an image: print the PSNR of frame 0")
    arguments = parser.parse_args()
    video = read_video(arguments.video)
    found = detect(video)
    for item in found:
        print(describe(item, video.shape[-1]))
    if not found:
        print("no object found")
    if arguments.reference:
        print(f"PSNR {psnr(video, read_video(arguments.reference)):.2f} dB")
    if arguments.first_frame:
        image = read_video(arguments.first_frame)
        print(f"first frame PSNR {psnr(video[:, :1], image[:, :1]):.2f} dB")
    if not arguments.prompt:
        return 0
    try:
        result = compare(found, expect(arguments.prompt))
    except PromptError as error:
        parser.error(str(error))
    print(verdict(result))
    return 0 if result.ok else 1


def describe(item: Detected, size: int) -> str:
    """Returns a line about an object."""
    speed = item.motion.speed * size
    return (
        f"{item.colour or 'unknown colour'} {item.shape or 'unknown shape'}: {item.motion.name}, "
        f"{speed:.1f} pixels per frame, radius {item.radius * size:.0f} pixels, "
        f"in {100 * item.presence:.0f} % of the frames"
    )


def verdict(result: Score) -> str:
    """Returns a line about a score."""
    parts = {
        "colour": result.colour_ok,
        "shape": result.shape_ok,
        "motion": result.motion_ok,
        "count": result.count_ok,
    }
    return ", ".join(f"{name} {'ok' if right else 'WRONG'}" for name, right in parts.items())


if __name__ == "__main__":
    sys.exit(main())
