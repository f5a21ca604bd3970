"""Two videos for the editor's player: every frame of both, where it can fetch them."""

import io
from typing import Any

import pytest
from PIL import Image

from .graphs import node
from .server import ComfyServer

pytestmark = pytest.mark.comfy


def image(seed: int, count: int, width: int = 64) -> dict[str, Any]:
    return node("WanDuetTestImage", seed=seed, width=width, height=48, count=count, channels=3)


def test_images_and_videos(comfy_server: ComfyServer):
    prompt = {
        "a": image(1, 3),
        "b": image(2, 5, width=80),
        "video": node("CreateVideo", images=("b", 0), fps=24.0),
        "compare": node("WanDuetCompare", video_a=("a", 0), video_b=("video", 0), fps=16.0),
        "turned": node("WanDuetCompare", video_a=("video", 0), video_b=("a", 0), fps=16.0),
    }
    result = comfy_server.run(prompt)

    assert result.status == "success", result.error
    (shown,) = result.outputs["compare"]["wanduet_compare"]
    assert (shown["fps"], result.outputs["turned"]["wanduet_compare"][0]["fps"]) == (16.0, 24.0)
    for video, count, width in zip(shown["videos"], (3, 5), (64, 80), strict=True):
        data = comfy_server.view(video)
        assert (len(video["lengths"]), video["width"], video["height"]) == (count, width, 48)
        assert sum(video["lengths"]) == len(data)
        with Image.open(io.BytesIO(data[video["lengths"][0] :])) as second:
            assert (second.format, second.size) == ("JPEG", (width, 48))
