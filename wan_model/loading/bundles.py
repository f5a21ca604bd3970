"""All-in-one files: a whole pipeline's tensors in one file, each part below a prefix of its own.

ComfyUI's *CheckpointSave* writes them: `model.diffusion_model.`, `vae.` and
`text_encoders.umt5xxl.transformer.`, and the tokenizer as `text_encoders.spiece_model`.
"""

from collections.abc import Callable, Iterable

from .keymap import Component

TRANSFORMER = "model.diffusion_model."

PART_PREFIXES: dict[Component, tuple[str, ...]] = {
    "dit": (TRANSFORMER,),
    "vae": ("vae.", "first_stage_model."),
    "text_encoder": tuple(
        f"text_encoders.{rest}" for rest in ("umt5xxl.transformer.", "umt5xxl.", "")
    ),
}
"""Of each part; where one begins like another, the longer one comes first."""

OTHER_PARTS = ("cond_stage_model.", *PART_PREFIXES["vae"], *PART_PREFIXES["text_encoder"])
"""What stands beside the transformer in an all-in-one file."""

NO_WEIGHTS = ("logit_scale",)
"""What ComfyUI saves with a text encoder, and no text encoder uses."""


def is_bundle(names: Iterable[str]) -> bool:
    """Whether keys are those of an all-in-one file."""
    names = tuple(names)
    return any(name.startswith(TRANSFORMER) for name in names) and any(
        name.startswith(OTHER_PARTS) for name in names
    )


def part_name(part: Component) -> Callable[[str], str | None]:
    """Returns the function from a key to its name within a part; None for keys of other parts."""
    prefixes = PART_PREFIXES[part]

    def within(name: str) -> str | None:
        prefix = next((one for one in prefixes if name.startswith(one)), None)
        short = None if prefix is None else name.removeprefix(prefix)
        return None if short in NO_WEIGHTS else short

    return within
