"""The node that has a language model of the user's rewrite a prompt."""

import os
from io import BytesIO
from typing import Any

import PIL.Image
from comfy_api.latest import io
from torch import Tensor

from ..wan_model.errors import EndpointError, PairingError
from ..wan_model.prompt_help.chat import Question, ask, cleaned
from ..wan_model.prompt_help.endpoint import HOSTS, KEY, checked_endpoint
from ..wan_model.prompt_help.instructions import INSTRUCTIONS, Language, Task, in_one_text
from ._comfy.host import runtime
from ._comfy.text.kept_prompts import keep_answer, kept_answer
from ._report import reports_errors
from .checked_inputs import Choice, Image, Least
from .prompt_output import shown_prompt
from .search_words import search_words

TEXT, IMAGE, BOTH = "text to video", "image to video", "text or image to video (5B)"
PASS, STOP = "use the prompt as it is", "stop"

MAX_SIDE = 768
"""Pixels of the image that is sent; language models see no more."""


class WanDuetPromptExtend(io.ComfyNode):
    """Asks an OpenAI-compatible service for a longer prompt."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describes the node."""
        return io.Schema(
            node_id="WanDuetPromptExtend",
            display_name="Wan 2.2 Extend Prompt",
            **search_words("WanDuetPromptExtend"),
            category="Wan 2.2",
            description="Has a language model on this computer, such as Ollama or LM Studio, "
            "rewrite a short prompt for Wan 2.2. The same question is asked only once. "
            "Nothing is sent to other computers unless you allow it.",
            inputs=[
                io.String.Input(
                    "prompt",
                    multiline=True,
                    dynamic_prompts=True,
                    default="",
                    tooltip="Your idea, as short as you like. For an image, say what moves.",
                ),
                Choice.Input(
                    "task",
                    options=[TEXT, IMAGE, BOTH],
                    default=TEXT,
                    tooltip="What the prompt is for. For image to video, the language model has "
                    "to see the image: connect it, and choose a model that can see.",
                ),
                Choice.Input(
                    "language",
                    options=["English", "Chinese"],
                    default="English",
                    tooltip="Language of the new prompt. Wan 2.2 was trained with both.",
                ),
                *_service_inputs(),
                Image.Input(
                    "image",
                    optional=True,
                    tooltip="The start image. It is sent to the language model, scaled to at most "
                    f"{MAX_SIDE} pixels.",
                ),
                io.String.Input(
                    "edited",
                    multiline=True,
                    default="",
                    optional=True,
                    tooltip="Your own version of the result. As long as there is text here, it is "
                    "the result, and nobody is asked.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="prompt"),
                io.String.Output(display_name="instruction"),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @reports_errors
    def execute(
        cls,
        prompt: str,
        task: str,
        language: Language,
        endpoint: str,
        model: str,
        on_failure: str,
        time_limit: float,
        attempt: int,
        image: Any = None,
        edited: str = "",
    ) -> io.NodeOutput:
        """Returns the new prompt, and what ComfyUI's own text generation would be told."""
        kind = _kind(task, image is not None)
        told = in_one_text(kind, language, prompt)
        if edited.strip():
            return _shown(cls.hidden.unique_id, edited.strip(), told, "Your edited prompt:")
        if not endpoint.strip():
            return _shown(cls.hidden.unique_id, prompt, told, "No endpoint: the prompt as it is.")
        sent = None if image is None else _jpeg(image)
        question = Question(model, INSTRUCTIONS[kind, language], prompt, sent, attempt)
        try:
            written = _answered(endpoint, question, time_limit)
        except EndpointError as error:
            if on_failure == STOP:
                raise
            return _shown(
                cls.hidden.unique_id, prompt, told, f"{error} The prompt is used as it is:"
            )
        return _shown(cls.hidden.unique_id, written, told, "")


def _service_inputs() -> list[Any]:
    """Returns the inputs that say who is asked, and how."""
    return [
        io.String.Input(
            "endpoint",
            default="http://127.0.0.1:11434/v1",
            tooltip="OpenAI-compatible address: Ollama 11434, LM Studio 1234, llama.cpp 8080. "
            f"Other computers must be allowed in {HOSTS}. Empty: nobody is asked.",
        ),
        io.String.Input(
            "model",
            default="qwen2.5:7b",
            tooltip="The language model's name, as the service lists it. For an image, one that "
            f"can see, such as qwen2.5vl:7b. A key comes from {KEY} only.",
        ),
        Choice.Input(
            "on_failure",
            options=[PASS, STOP],
            default=PASS,
            tooltip="If there is no usable answer: go on with your own prompt, which the node "
            "says, or stop the run.",
        ),
        io.Float.Input(
            "time_limit",
            default=120.0,
            min=Least(1.0),
            max=3600.0,
            step=1.0,
            tooltip="Seconds that the language model may take, with loading it. Cancel ends it "
            "at once.",
        ),
        io.Int.Input(
            "attempt",
            default=0,
            min=0,
            max=1_000_000,
            tooltip="Another number asks again for another version. The same one gives the answer "
            "that is known.",
        ),
    ]


def _kind(task: str, has_image: bool) -> Task:
    """Returns which instruction a task needs.

    Raises:
        PairingError: if the image is missing, or of no use.
    """
    if task == IMAGE and not has_image:
        raise PairingError(
            "A prompt for an image needs the image. Got none, need the start image: without it the "
            "language model invents the scene. Connect it, or choose 'text to video'."
        )
    if task == TEXT and has_image:
        raise PairingError(
            "A prompt for text to video has no image. Got one, need none. Take it away, or choose "
            "'image to video'."
        )
    return IMAGE if has_image else TEXT


def _answered(endpoint: str, question: Question, seconds: float) -> str:
    """Returns what is known, or asks."""
    environment = os.environ
    known = checked_endpoint(endpoint, environment.get(HOSTS, ""), environment.get(KEY, ""))
    asked = f"{known.scheme}://{known.host}:{known.port}{known.path}\n".encode() + question.body()
    kept = kept_answer(asked)
    if kept is not None:
        return cleaned(kept)
    written = ask(known, question, seconds, runtime.raise_if_interrupted)
    keep_answer(asked, written)
    return written


def _jpeg(image: Tensor) -> bytes:
    """Returns the first image (B, H, W, 3), in 0 to 1, as a file."""
    pixels = (image[0, ..., :3].float().clamp(0, 1) * 255).round().byte().cpu().numpy()
    small = PIL.Image.fromarray(pixels)
    small.thumbnail((MAX_SIDE, MAX_SIDE))
    file = BytesIO()
    small.save(file, "JPEG", quality=90)
    return file.getvalue()


def _shown(node_id: str | None, prompt: str, told: str, heading: str) -> io.NodeOutput:
    text = f"{heading}\n{prompt}".strip()
    return io.NodeOutput(prompt, told, ui=shown_prompt(node_id, prompt, text))


NODES: list[type[io.ComfyNode]] = [WanDuetPromptExtend]
