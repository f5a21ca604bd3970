"""The demo's options: for `dev.py`, before anything is installed, and for the demo itself."""

import argparse
from pathlib import Path

OUTPUT = Path(__file__).parents[1] / "demo"


def add_demo_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `python dev.py demo`."""
    group = parser.add_argument_group("options of the demo")
    group.add_argument(
        "--prompt",
        help="what to show, such as 'a red star spins' (default: each template's own prompt)",
    )
    group.add_argument(
        "--image",
        type=Path,
        help="an image to animate, cut to a square (default: a blue circle)",
    )
    group.add_argument(
        "--seed", type=int, help="another number, another video (default: each template's own)"
    )
    group.add_argument(
        "--fast", action="store_true", help="two videos in 4 steps, with the 4-step LoRAs"
    )
    group.add_argument(
        "--output", type=Path, default=OUTPUT, help="folder for the videos (default: demo)"
    )


def as_arguments(options: argparse.Namespace) -> list[str]:
    """Returns the demo's options as they are written on a command line."""
    given = ((name, getattr(options, name)) for name in ("prompt", "image", "seed", "output"))
    fast = ["--fast"] if options.fast else []
    return [*fast, *(f"--{name}={value}" for name, value in given if value is not None)]
