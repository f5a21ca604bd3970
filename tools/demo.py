"""Makes three short videos through a real ComfyUI server: `python dev.py demo`.

Text to video, image to video, and TI2V, with wan22-tiny, the small Wan2.2 that comes with the pack,
on the CPU, in well under a minute. Beside each mp4 lies a PNG with all its frames; `all.mp4` and
`all.webp` show the videos side by side.
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
from tools.contact_sheet import contact_sheet  # noqa: E402
from tools.demo_options import add_demo_options  # noqa: E402
from tools.montage import beside, save_mp4, save_webp  # noqa: E402
from tools.tiny_score import read_video  # noqa: E402
from tools.tiny_vocabulary import advice  # noqa: E402

logger = logging.getLogger("demo")

LIMITS = (
    "wan22-tiny knows coloured shapes only: a circle, square, triangle, star or ring that moves "
    "left, right, up or down, rotates, grows, shrinks, bounces, orbits or stays still."
)

WORKFLOWS = tuple(
    f"Wan 2.2 Tiny {kind} to Video (No Download)" for kind in ("Text", "Image", "Text or Image")
)
FAST_WORKFLOWS = tuple(
    f"Wan 2.2 Tiny {kind} to Video 4 Steps (No Download)" for kind in ("Text", "Image")
)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python dev.py demo",
        description=f"{__doc__} {LIMITS}",
    )
    add_demo_options(parser)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="demo: %(message)s", stream=sys.stdout)
    if arguments.image and not arguments.image.is_file():
        parser.error(f"There is no image {arguments.image}.")
    if arguments.prompt and (said := advice(arguments.prompt)):
        logger.warning(said)
    with tempfile.TemporaryDirectory(prefix="wanduet-demo-") as folder:
        run(Path(folder), arguments)
    logger.info(LIMITS)


def run(base: Path, arguments: argparse.Namespace) -> None:
    """Starts a server in `base`, queues the workflows, and writes videos and contact sheets."""
    install_pack(base / "custom_nodes")
    logger.info("Starting ComfyUI")
    # On tensors this small more threads gain little, and lose much beside another busy program.
    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    with ComfyServer(comfyui_folder(), base, environment=threads) as server:
        image = server.upload_image(arguments.image) if arguments.image else None
        arguments.output.mkdir(parents=True, exist_ok=True)
        videos = []
        for name in FAST_WORKFLOWS if arguments.fast else WORKFLOWS:
            workflow = load(name)
            prompt = fill_in(workflow, arguments.prompt, image, arguments.seed)
            started = time.monotonic()
            saved = make_video(server, workflow)
            seconds = time.monotonic() - started
            video = arguments.output / f"{name}.mp4"
            video.write_bytes(saved.read_bytes())
            sheet = video.with_suffix(".png")
            videos.append(read_video(video))
            contact_sheet(videos[-1], prompt).save(sheet)
            logger.info("%4.1f s  %s, %s  %s", seconds, video, sheet.name, prompt)
    frames, together = beside(videos), arguments.output / "all.mp4"
    save_mp4(frames, together)
    save_webp(frames, together.with_suffix(".webp"))
    logger.info("Side by side: %s, %s", together, together.with_suffix(".webp").name)


def load(name: str) -> dict[str, Any]:
    """Returns a workflow in API format."""
    return json.loads((ROOT / "workflows" / "api" / f"{name}.json").read_text("utf-8"))


def fill_in(
    workflow: dict[str, Any], prompt: str | None, image: str | None, seed: int | None = None
) -> str:
    """Puts what the person gave into a workflow and returns the prompt it now has.

    Args:
        workflow: in API format; changed.
        prompt: None leaves that of the workflow.
        image: a name in the input folder; None leaves that of the workflow.
        seed: None leaves that of the workflow.
    """
    for node in workflow.values():
        if node["class_type"] == "LoadImage" and image:
            node["inputs"]["image"] = image
        if "seed" in node["inputs"] and seed is not None:
            node["inputs"]["seed"] = seed
        if node["class_type"] == "WanDuetTextEncode":
            prompt = node["inputs"]["positive"] = prompt or node["inputs"]["positive"]
    return prompt or ""


def make_video(server: ComfyServer, workflow: dict[str, Any]) -> Path:
    """Runs a workflow and returns the video file that it saved."""
    result = server.run(workflow, timeout=600)
    if result.error:
        raise SystemExit(f"demo: the workflow failed. {result.error['exception_message']}")
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
