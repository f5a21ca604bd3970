"""ComfyUI nodes: each describes itself, converts, calls wan_model and reports."""

from comfy_api.latest import ComfyExtension, io

from . import (
    cinematic,
    companion_loaders,
    compare,
    compile_blocks,
    context_windows,
    custom_sampling,
    decode,
    distribute,
    image_to_video,
    join_clips,
    loaders,
    lora_pair,
    memory_limits,
    moe_sampler,
    negative_guidance,
    prompt_extend,
    prompt_schedule,
    save_model,
    skip_steps,
    text_encode,
)

NODES: list[type[io.ComfyNode]] = [
    *loaders.NODES,
    *companion_loaders.NODES,
    *lora_pair.NODES,
    *text_encode.NODES,
    *prompt_schedule.NODES,
    *cinematic.NODES,
    *prompt_extend.NODES,
    *image_to_video.NODES,
    *moe_sampler.NODES,
    *custom_sampling.NODES,
    *decode.NODES,
    *join_clips.NODES,
    *memory_limits.NODES,
    *negative_guidance.NODES,
    *distribute.NODES,
    *context_windows.NODES,
    *skip_steps.NODES,
    *compile_blocks.NODES,
    *save_model.NODES,
    *compare.NODES,
]


class WanDuetExtension(ComfyExtension):
    """What ComfyUI asks for the nodes of this pack."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Returns all node classes."""
        return NODES
