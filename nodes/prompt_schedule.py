"""The node of several prompts over the time of one video."""

from typing import Any

import torch
from comfy_api.latest import io

from ..wan_model.config import NEGATIVE_PROMPT
from ..wan_model.prompt import negative_or_official
from ..wan_model.timed_text import parse_timed_text
from ._comfy.host import runtime
from ._comfy.model.timed_prompts import TimedPrompts, with_schedule
from ._comfy.text import embeddings
from ._report import reports_errors
from .checked_inputs import Clip, Least
from .search_words import search_words

EXAMPLE = """A small harbour at dawn, soft side light, muted colours.
0-2s: A fishing boat lies at the pier, gulls circle above its mast.
2-5s: The boat leaves the harbour, the camera follows it slowly."""


class WanDuetPromptSchedule(io.ComfyNode):
    """Encodes prompts for parts of a video, and one negative prompt for all of it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describes the node."""
        return io.Schema(
            node_id="WanDuetPromptSchedule",
            display_name="Wan 2.2 Prompt Schedule",
            **search_words("WanDuetPromptSchedule"),
            category="Wan 2.2",
            description="Several prompts over the time of one video, each for its seconds or "
            "frames, with soft borders. Works on models of ComfyUI's own loader, too, and costs "
            "almost no time.",
            inputs=[
                Clip.Input(
                    "clip", tooltip="A umT5 text encoder, from 'Wan 2.2 Load Text Encoder'."
                ),
                io.String.Input(
                    "prompts",
                    multiline=True,
                    dynamic_prompts=True,
                    default=EXAMPLE,
                    tooltip="A line such as '0-2s: a boat lies still' or '0-32: ...' (frames) "
                    "begins a prompt. What stands before the first range belongs to all of them.",
                ),
                io.String.Input(
                    "negative",
                    multiline=True,
                    dynamic_prompts=True,
                    default="",
                    placeholder=NEGATIVE_PROMPT,
                    tooltip="What to avoid in the whole video. Empty: the official negative "
                    "prompt, shown in grey. It has no effect at cfg 1 without 'Wan 2.2 NAG'.",
                ),
                io.Float.Input(
                    "transition",
                    default=8.0,
                    min=Least(0.0),
                    max=1000.0,
                    step=1.0,
                    tooltip="Frames over which one prompt turns into the next, half of them on "
                    "each side of the border. 0: a cut between prompts.",
                ),
                io.Float.Input(
                    "fps",
                    default=16.0,
                    min=Least(1.0),
                    max=240.0,
                    step=1.0,
                    tooltip="Frames per second, for ranges in seconds: 16 for 14B, 24 for 5B.",
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
        cls, clip: Any, prompts: str, negative: str, transition: float, fps: float
    ) -> io.NodeOutput:
        """Encodes all prompts; a single one is an ordinary conditioning."""
        timed = parse_timed_text(prompts, fps)
        encoded = []
        for text in (*(one.text for one in timed), negative_or_official(negative)):
            embedding, warning = embeddings.encode(clip, text)
            encoded.append(embedding)
            if warning:
                runtime.show(cls.hidden.unique_id, warning)
        unwanted = [[encoded.pop(), {}]]
        if len(timed) == 1:
            return io.NodeOutput([[encoded[0], {}]], unwanted)
        positive = with_schedule(TimedPrompts(timed, torch.cat(encoded), transition))
        return io.NodeOutput(positive, unwanted)


NODES: list[type[io.ComfyNode]] = [WanDuetPromptSchedule]
