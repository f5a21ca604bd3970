"""Makes two short videos through a real ComfyUI server: `python dev.py demo`.

Text to video and image to video, with the workflows of `workflows/api`, on the CPU, in about a
minute. The models have the real architecture at toy size and *random* weights, so the videos show
moving noise: they prove the way from prompt and picture to mp4, not quality.
"""

import argparse
import json
import logging
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.comfy.server import ComfyServer, install_pack  # noqa: E402
from tests.toy.make_checkpoints import STAND_INS, make_checkpoints  # noqa: E402

logger = logging.getLogger("demo")

PICTURE = ROOT / "tools" / "demo_data" / "chelsea.jpg"
"""Photograph of a cat by Stefan van der Walt, CC0."""

SMALL = {"width": 192, "height": 128, "length": 17, "steps": 6}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python dev.py demo", description=__doc__)
    parser.add_argument("--prompt", default="a cat turns its head and blinks", help="what to show")
    parser.add_argument("--image", type=Path, default=PICTURE, help="picture to animate")
    parser.add_argument("--output", type=Path, default=ROOT / "demo", help="folder for the videos")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="demo: %(message)s", stream=sys.stdout)
    if not arguments.image.is_file():
        parser.error(f"There is no picture {arguments.image}.")
    with tempfile.TemporaryDirectory(prefix="wanduet-demo-") as folder:
        videos = run(Path(folder), arguments)
    logger.info("The weights are random, so the videos show moving noise. Written:")
    for video in videos:
        logger.info("  %s", video)


def run(base: Path, arguments: argparse.Namespace) -> list[Path]:
    """Starts a server in `base`, queues both workflows, and returns the mp4 files."""
    logger.info("Writing toy models with random weights")
    make_checkpoints(base / "models")
    install_pack(base / "custom_nodes")
    logger.info("Starting ComfyUI")
    with ComfyServer(comfyui_folder(), base) as server:
        picture = server.upload_image(arguments.image)
        arguments.output.mkdir(parents=True, exist_ok=True)
        videos = []
        for name in ("wan22_t2v_a14b", "wan22_i2v_a14b"):
            started = time.monotonic()
            file = make_video(server, fitted(load(name), arguments.prompt, picture))
            target = arguments.output / f"{name}.mp4"
            target.write_bytes(file.read_bytes())
            videos.append(target)
            logger.info("%s: %.0f s", name, time.monotonic() - started)
    return videos


def load(name: str) -> dict[str, Any]:
    """Returns a workflow in API format."""
    return json.loads((ROOT / "workflows" / "api" / f"{name}.json").read_text("utf-8"))


def fitted(workflow: dict[str, Any], prompt: str, picture: str) -> dict[str, Any]:
    """Returns a workflow with toy models, a small video, and the person's prompt and picture."""
    for node in workflow.values():
        inputs = node["inputs"]
        for key, value in inputs.items():
            if isinstance(value, str):
                inputs[key] = STAND_INS.get(value, value)
            inputs[key] = SMALL.get(key, inputs[key])
        if node["class_type"] == "WanDuetTextEncode":
            inputs["positive"] = prompt
        if node["class_type"] == "LoadImage":
            inputs["image"] = picture
    return workflow


def make_video(server: ComfyServer, workflow: dict[str, Any]) -> Path:
    """Runs a workflow and returns the video file that it saved."""
    result = server.run(workflow, timeout=600)
    if result.status != "success":
        raise SystemExit(f"demo: the workflow failed. {result.error}")
    outputs = [output["images"][0] for output in result.outputs.values() if "images" in output]
    return server.output_path(outputs[0])


def comfyui_folder() -> Path:
    """Returns the ComfyUI that dev.py chose."""
    folder = os.environ.get("COMFYUI_PATH")
    if not folder:
        raise SystemExit("demo: COMFYUI_PATH is not set. Run `python dev.py demo`.")
    return Path(folder)


if __name__ == "__main__":
    main()
