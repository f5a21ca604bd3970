"""A test-only ComfyUI extension that plans memory on a CPU as on Nvidia's cards."""

import comfy.model_management
from comfy_api.latest import ComfyExtension, io


class PrecisionTestExtension(ComfyExtension):
    """No nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        comfy.model_management.MIN_WEIGHT_MEMORY_RATIO = 0.0  # as on Nvidia's cards
        return []


async def comfy_entrypoint() -> PrecisionTestExtension:
    """Called by ComfyUI when it loads the file."""
    return PrecisionTestExtension()
