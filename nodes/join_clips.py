"""The node that joins clips and decodes them as one video."""

from collections.abc import Sequence
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..wan_model.clips import drop_first, splice, with_warm_up
from ..wan_model.config import OFFICIAL
from ..wan_model.errors import SettingsError, ShapeError
from ..wan_model.shapes import video_frames
from ._comfy.host import runtime
from ._comfy.host.video_file import write_video
from ._comfy.model import facts
from ._comfy.vae.continuation import CONTINUES
from ._comfy.vae.frame_stream import frame_stream
from ._report import reports_errors
from .checked_inputs import Latent, Vae
from .long_video_widgets import CROSSFADE, JOIN
from .search_words import search_words
from .widgets import widgets

MAX_CLIPS = 8


class WanDuetJoinClips(io.ComfyNode):
    """Joins latents, decodes them frame by frame and writes them to a file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describes the node."""
        return io.Schema(
            node_id="WanDuetJoinClips",
            display_name="Wan 2.2 Join Clips & Decode",
            **search_words("WanDuetJoinClips"),
            category="Wan 2.2",
            description="Makes one video of clips that follow each other, of one long clip, or of "
            "a loop. Frames go to a file as they are decoded. Connect 'Save Video' behind it.",
            inputs=[
                Vae.Input(
                    "vae", tooltip="The model's VAE: wan_2.1_vae for 14B, wan2.2_vae for 5B."
                ),
                Latent.Input(
                    "clip_1", tooltip="First clip, or the only one: the latent of a sampler."
                ),
                *widgets(*JOIN, table=JOIN),
                *(
                    Latent.Input(
                        f"clip_{number}",
                        optional=True,
                        tooltip=f"Clip number {number}, if there are so many. What it repeats of "
                        "the clip before is left out.",
                    )
                    for number in range(2, MAX_CLIPS + 1)
                ),
            ],
            outputs=[io.Video.Output(display_name="video")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @reports_errors
    def execute(
        cls,
        vae: Any,
        clip_1: dict[str, Any],
        blend: str,
        match_colours: bool,
        overlap: int,
        loop: bool,
        fps: float,
        **more: dict[str, Any] | None,
    ) -> io.NodeOutput:
        """Decodes."""
        later = [more.get(f"clip_{number}") for number in range(2, MAX_CLIPS + 1)]
        clips = [latent for latent in (clip_1, *later) if latent is not None]
        latents = [clip["samples"] for clip in clips]
        known = [clip.get(CONTINUES, (0, overlap)) for clip in clips]
        _check(vae, latents, [repeats for _, repeats in known], loop)
        drops = [lead for lead, _ in known]
        if loop:
            latents[0], drops[0] = with_warm_up(latents[0])
        parts = (
            drop_first(frame_stream(vae, latent), drop)
            for latent, drop in zip(latents, drops, strict=True)
        )
        frames = splice(
            parts,
            [repeats for _, repeats in known[1:]],
            crossfade=blend == CROSSFADE,
            match_colours=match_colours,
        )
        fps = fps or OFFICIAL["ti2v" if latents[0].shape[1] == 48 else "i2v"].fps
        video, count = write_video(frames, fps)
        continued = sum(CONTINUES in clip for clip in clips[1:])
        runtime.show(
            cls.hidden.unique_id,
            f"{count} frames, {count / fps:.1f} s at {fps:g} fps, from {len(clips)} clips, "
            f"{continued} of them continue the one before",
        )
        return io.NodeOutput(video)


def _check(vae: Any, latents: Sequence[Tensor], repeats: Sequence[int], loop: bool) -> None:
    first = latents[0]
    for latent in latents:
        facts.check_vae(vae, latent)
    if len(first) > 1:
        raise ShapeError(
            f"Clips of a batch cannot be joined. Got {len(first)} videos in clip_1, need one. Set "
            "batch_size to 1, or take one out with ComfyUI's 'Latent From Batch'."
        )
    for number, latent in enumerate(latents, 1):
        if (latent.shape[:2], latent.shape[3:]) != (first.shape[:2], first.shape[3:]):
            raise ShapeError(
                f"The clips differ in size. Got {tuple(latent.shape)} as clip {number}, "
                f"need that of clip_1, {tuple(first.shape)}, but for the length. Make all clips "
                "with one width and height."
            )
    frames = [video_frames(latent.shape[2]) for latent in latents]
    for number in range(1, len(latents)):
        most = min(frames[number - 1], frames[number] - 1)
        if repeats[number] > most:
            raise ShapeError(
                f"The overlap is longer than a clip. Got {repeats[number]} frames of clip "
                f"{number + 1} that repeat the clip before, need at most {most}. Lower overlap, "
                "or make the clips longer."
            )
    if loop and len(latents) > 1:
        raise SettingsError(
            f"Only one clip can be a loop. Got {len(latents)} clips with loop on, need one, made "
            "with 'loop' of context windows. Set loop to false, or disconnect the others."
        )


NODES: list[type[io.ComfyNode]] = [WanDuetJoinClips]
