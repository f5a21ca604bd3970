"""The node that turns prompts into conditionings."""

from typing import Any

from comfy_api.latest import io

from ..wan_model.config import NEGATIVE_PROMPT
from ..wan_model.prompt import negative_or_official
from ._comfy.host import runtime
from ._comfy.text import embeddings
from ._report import reports_errors
from .checked_inputs import Clip
from .search_words import search_words


class WanDuetTextEncode(io.ComfyNode):
    """Encodes a prompt and its negative as the official code does."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describes the node."""
        return io.Schema(
            node_id="WanDuetTextEncode",
            display_name="Wan 2.2 Prompt",
            **search_words("WanDuetTextEncode"),
            category="Wan 2.2",
            description=(
                "Turns the prompt and the negative prompt into what the model reads. Known "
                "prompts are remembered on disk."
            ),
            inputs=[
                Clip.Input(
                    "clip", tooltip="A umT5 text encoder, from 'Wan 2.2 Load Text Encoder'."
                ),
                io.String.Input(
                    "positive",
                    multiline=True,
                    dynamic_prompts=True,
                    default="",
                    tooltip=(
                        "What happens in the video: subject, motion, scene, light, camera. Up to "
                        "about 380 English words."
                    ),
                ),
                io.String.Input(
                    "negative",
                    multiline=True,
                    dynamic_prompts=True,
                    default="",
                    placeholder=NEGATIVE_PROMPT,
                    tooltip=(
                        "What to avoid. Empty: the official negative prompt, shown in grey. "
                        "It has no effect at cfg 1 without 'Wan 2.2 NAG'."
                    ),
                ),
                io.Boolean.Input(
                    "official_negative",
                    default=True,
                    optional=True,
                    tooltip=(
                        "Uses the official negative prompt where 'negative' is empty. Off: an "
                        "empty box means no negative prompt."
                    ),
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive"),
                io.Conditioning.Output(display_name="negative"),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @reports_errors
    def execute(
        cls, clip: Any, positive: str, negative: str, official_negative: bool = True
    ) -> io.NodeOutput:
        """Encodes both prompts."""
        conditionings, warnings = [], []
        negative = negative_or_official(negative) if official_negative else negative
        for prompt in (positive, negative):
            embedding, warning = embeddings.encode(clip, prompt)
            conditionings.append([[embedding, {}]])
            warnings += [warning] if warning else []
        if warnings:
            runtime.show(cls.hidden.unique_id, "\n".join(warnings))
        return io.NodeOutput(*conditionings)


NODES: list[type[io.ComfyNode]] = [WanDuetTextEncode]
