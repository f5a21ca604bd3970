"""*Wan 2.2 Extend Prompt* with a stand-in for a language model, and *Wan 2.2 Cinematic Prompt*."""

import base64
import io
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from tests.toy.language_model import LanguageModel, drips, language_model, says, sends

from .client import Message, RunResult
from .graphs import node
from .server import ComfyServer

pytestmark = pytest.mark.comfy

IDEA, GOOD = "a boat", "A small red boat leaves the harbour."
IMAGE = {"image": node("EmptyImage", width=1536, height=768, batch_size=2, color=255)}


@pytest.fixture(scope="module")
def service() -> Iterator[LanguageModel]:
    broken = sends(b'{"error": "out of memory"}', 500)
    with language_model(good=says(GOOD), drips=drips, broken=broken) as model:
        yield model


def run(server: ComfyServer, address: str, on_message=None, **options: Any) -> RunResult:
    inputs = {
        "prompt": IDEA,
        "task": "text to video",
        "language": "English",
        "endpoint": address,
        "model": "good",
        "on_failure": "use the prompt as it is",
        "time_limit": 20.0,
        "attempt": 0,
        **options,
    }
    prompt = {
        **(IMAGE if "image" in options else {}),
        "extend": node("WanDuetPromptExtend", **inputs),
        "prompt": node("PreviewAny", source=("extend", 0)),
        "instruction": node("PreviewAny", source=("extend", 1)),
    }
    return server.run(prompt, on_message=on_message)


def written(result: RunResult) -> str:
    assert result.status == "success", result.error
    return result.outputs["prompt"]["text"][0]


def failure(result: RunResult) -> str:
    return (result.error or {})["exception_message"]


def test_an_answer_is_shown_and_asked_for_once(comfy_server: ComfyServer, service: LanguageModel):
    before = len(service.requests)
    first = run(comfy_server, service.address, language="Chinese")
    assert written(first) == GOOD
    assert first.texts("extend") == [GOOD]
    assert first.outputs["extend"]["wanduet_prompt"] == [{"prompt": GOOD, "text": GOOD}]
    assert IDEA in first.outputs["instruction"]["text"][0]
    assert "\u63d0\u793a\u8bcd" in service.requests[before]["messages"][0]["content"]

    again = {"language": "Chinese", "time_limit": 21.0}  # so that ComfyUI runs the node again
    assert written(run(comfy_server, service.address, **again)) == GOOD
    assert len(service.requests) == before + 1
    run(comfy_server, service.address, **again, attempt=1)
    assert len(service.requests) == before + 2

    edited = run(comfy_server, service.address, **again, attempt=2, edited=" A green boat. ")
    assert written(edited) == "A green boat."
    assert written(run(comfy_server, "", **again)) == IDEA
    assert len(service.requests) == before + 2


def test_the_image_goes_along(comfy_server: ComfyServer, service: LanguageModel):
    for task in ("image to video", "text or image to video (5B)"):
        result = run(comfy_server, service.address, task=task, image=("image", 0), attempt=7)
        assert written(result) == GOOD
    sent = service.requests[-1]["messages"]
    assert "animates the given image" in sent[0]["content"]
    data = base64.b64decode(sent[1]["content"][0]["image_url"]["url"].split(",")[1])
    assert Image.open(io.BytesIO(data)).size == (768, 384)

    assert "needs the image" in failure(run(comfy_server, service.address, task="image to video"))
    result = run(comfy_server, service.address, image=("image", 0))
    assert "has no image" in failure(result)


def test_failures_pass_the_prompt_through_or_stop(
    comfy_server: ComfyServer, service: LanguageModel
):
    result = run(comfy_server, service.address, model="broken")
    assert written(result) == IDEA
    (said,) = result.texts("extend")
    assert "HTTP 500 out of memory" in said
    assert said.endswith(f"used as it is:\n{IDEA}")
    stopped = run(comfy_server, service.address, model="broken", on_failure="stop")
    assert "HTTP 500" in failure(stopped)
    assert "WANDUET_PROMPT_HOSTS" in failure(
        run(comfy_server, "http://a.example/v1", on_failure="stop")
    )


def test_cancel(comfy_server: ComfyServer, service: LanguageModel):
    def cancel(message: Message) -> None:
        if message.type == "executing" and message.data["node"] == "extend":
            comfy_server.interrupt()

    result = run(comfy_server, service.address, on_message=cancel, model="drips", time_limit=600.0)
    assert result.status == "interrupted"


def test_cinematic_words(comfy_server: ComfyServer):
    chosen = {"light": "rim light", "time_of_day": "dusk", "camera_movement": "arc"}
    names = comfy_server.object_info("WanDuetCinematic")["WanDuetCinematic"]["input_order"]
    choices = {name: "open" for name in names["required"] if name not in ("prompt", "language")}
    values = {"prompt": "A cat sleeps.", "language": "English", **choices, **chosen}
    result = comfy_server.run(
        {
            "words": node("WanDuetCinematic", **values),
            "prompt": node("PreviewAny", source=("words", 0)),
        }
    )
    expected = "Rim lighting, dusk. A cat sleeps. The camera moves in an arc around the subject."
    assert written(result) == expected
    said = result.texts("words")[0].splitlines()
    assert said[0] == expected
    assert said[1] == "Light: rim light. From behind, an outline of light around the subject."
