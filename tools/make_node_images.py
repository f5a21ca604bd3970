"""Draws the images of the help pages: `python -m tools.make_node_images [ID ...]`.

Every node as the graph editor draws it, from a real ComfyUI (COMFYUI_PATH) in Chromium, into
js/docs/images. Files that the loaders list are empty; only their names are seen.
"""

import argparse
import io
import json
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from tests.browser.chromium import find_chromium, start_chromium
from tests.browser.editor import Editor, Mode
from tests.comfy.server import ComfyServer, install_pack

logger = logging.getLogger("images")

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "js" / "docs" / "images"
CONTRACT = ROOT / "tests" / "policy" / "node_contract.json"

LISTED = {
    "diffusion_models": (
        "wan2.2_ti2v_5B_fp16",
        *(f"wan2.2_t2v_{expert}_noise_14B_fp8_scaled" for expert in ("high", "low")),
    ),
    "vae": ("wan_2.1_vae", "wan2.2_vae"),
    "text_encoders": ("umt5_xxl_fp8_e4m3fn_scaled",),
    "loras": tuple(f"wan2.2_lightning_{expert}_noise" for expert in ("high", "low")),
}
VALUES: Mapping[str, Mapping[str, Any]] = {
    "WanDuetModelLoader": {"model_name": "wan2.2_ti2v_5B_fp16.safetensors"},
    "WanDuetExpertLoader": {
        f"{expert}_noise_model": f"wan2.2_t2v_{expert}_noise_14B_fp8_scaled.safetensors"
        for expert in ("high", "low")
    },
    "WanDuetVAELoader": {"vae_name": "wan_2.1_vae.safetensors"},
    "WanDuetTextEncoderLoader": {"text_encoder_name": "umt5_xxl_fp8_e4m3fn_scaled.safetensors"},
    "WanDuetLoraPair": {"lora_high": "wan2.2_lightning_high_noise.safetensors"},
    "WanDuetTextEncode": {
        "positive": "A fishing boat leaves a small harbour at dawn, gulls circle above its mast, "
        "mist drifts over the water. The camera follows slowly from the pier."
    },
    "WanDuetImageToVideo": {"size": "480p landscape", "seconds": 5},
    "WanDuetMoESampler": {"steps": 20},
}
"""What is set in the images, beside the defaults."""

LOADER, SAMPLER = "WanDuetExpertLoader", "WanDuetMoESampler"
TINY = {
    f"{expert}_noise_model": f"wan22-tiny-t2v-{expert}-noise.safetensors"
    for expert in ("high", "low")
}
PLACE, AROUND, TITLE = (620, 160), 8, 30
SETTLE_MS = 600
VIEWPORT = {"width": 1500, "height": 1250}


def draw(editor: Editor, node_id: str) -> Image.Image:
    """Returns a node as it is drawn."""
    editor.clear()
    drawn = editor.call("add", node_id, *PLACE)
    if node_id == SAMPLER:  # its plot shows the schedule of the model that is connected
        loader = editor.call("add", LOADER, 20, PLACE[1])
        editor.set_widgets(loader, TINY)
        editor.call("connect", loader, 0, drawn, "model_high")
        editor.call("connect", loader, 1, drawn, "model_low")
    editor.set_widgets(drawn, VALUES.get(node_id, {}))
    editor.call("move", drawn, *PLACE)  # draws it anew
    editor.settle()
    editor.page.wait_for_timeout(SETTLE_MS)
    width, height = editor.page.evaluate("id => [...wanduetTest.node(id).size]", drawn)
    box = {
        "x": PLACE[0] - AROUND,
        "y": PLACE[1] - TITLE,
        "width": width + 2 * AROUND,
        "height": height + TITLE + AROUND,
    }
    return Image.open(io.BytesIO(editor.page.screenshot(clip=box))).convert("RGB")


def prepare(base: Path) -> None:
    """Makes the folder of a server that lists the files people have."""
    install_pack(base / "custom_nodes")
    for folder, names in LISTED.items():
        (base / "models" / folder).mkdir(parents=True)
        for name in names:
            (base / "models" / folder / f"{name}.safetensors").touch()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.make_node_images", description=__doc__)
    parser.add_argument("nodes", nargs="*", metavar="ID", help="default: all")
    wanted = parser.parse_args().nodes or list(json.loads(CONTRACT.read_text("utf-8")))
    executable = find_chromium()
    if executable is None or "COMFYUI_PATH" not in os.environ:
        parser.error("Needs Chromium (CHROMIUM_PATH) and ComfyUI (COMFYUI_PATH).")
    frontend = os.environ.get("WANDUET_NEWEST_FRONTEND")
    arguments = ("--front-end-root", frontend) if frontend else ()
    IMAGES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="wanduet-images-") as folder:
        prepare(Path(folder))
        comfyui = Path(os.environ["COMFYUI_PATH"])
        with (
            ComfyServer(comfyui, Path(folder), arguments=arguments) as server,
            sync_playwright() as playwright,
        ):
            browser = start_chromium(playwright, executable)
            page = browser.new_context(viewport=VIEWPORT).new_page()
            editor = Editor(page, server, Mode("newest" if frontend else "own", False))
            editor.open()
            for node_id in wanted:
                draw(editor, node_id).save(IMAGES / f"{node_id}.webp", quality=80, method=6)
            browser.close()


if __name__ == "__main__":
    main()
