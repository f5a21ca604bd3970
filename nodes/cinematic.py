"""The node that puts words of film into a prompt."""

from typing import Any

from comfy_api.latest import io

from ..wan_model.prompt_help.film_words import OPEN, meanings, menus, with_cinematic_words
from .checked_inputs import Choice
from .prompt_output import shown_prompt
from .search_words import search_words


class WanDuetCinematic(io.ComfyNode):
    """Adds light, camera and style from menus to a prompt."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describes the node."""
        return io.Schema(
            node_id="WanDuetCinematic",
            display_name="Wan 2.2 Cinematic Prompt",
            **search_words("WanDuetCinematic"),
            category="Wan 2.2",
            description="Adds light, camera, composition, colour and style to a prompt, in words "
            "that Wan 2.2 was trained with. Needs no network. The node explains what is chosen.",
            inputs=[
                io.String.Input(
                    "prompt",
                    multiline=True,
                    dynamic_prompts=True,
                    default="",
                    tooltip="What the video shows. Your words stay as they are: looks are added "
                    "before them, the camera's movement behind them.",
                ),
                *(
                    Choice.Input(
                        key,
                        options=[OPEN, *menu.terms],
                        default=OPEN,
                        tooltip=f"{menu.tooltip} {OPEN}: the model decides.",
                    )
                    for key, menu in menus().items()
                ),
                Choice.Input(
                    "language",
                    options=["English", "Chinese"],
                    default="English",
                    tooltip="Of the words that are added. Wan 2.2 understands both; use the "
                    "language of your prompt.",
                ),
            ],
            outputs=[io.String.Output(display_name="prompt")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, prompt: str, language: Any, **choices: str) -> io.NodeOutput:
        """Returns the prompt, and shows it with a line for each choice."""
        written = with_cinematic_words(prompt, choices, language)
        text = "\n".join([written, *meanings(choices)])
        return io.NodeOutput(written, ui=shown_prompt(cls.hidden.unique_id, written, text))


NODES: list[type[io.ComfyNode]] = [WanDuetCinematic]
