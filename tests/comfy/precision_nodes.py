"""Test-only ComfyUI nodes that make 8-bit matmuls on a CPU, which our loaders refuse."""

import sys
from types import ModuleType
from typing import Any

import comfy.model_management
import folder_paths
from comfy_api.latest import ComfyExtension, io


def part_of_the_pack(name: str) -> ModuleType:
    """Returns a module of the pack, as ComfyUI has imported it."""
    (found,) = (m for path, m in sys.modules.items() if path.endswith(f"wan-duet.{name}"))
    return found


class LoadAnyway(io.ComfyNode):
    """Loads a model like our loader, but does not ask whether it is fast."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanDuetTestLoadAnyway",
            category="WanDuet tests",
            inputs=[
                io.String.Input("model_name"),
                io.String.Input("precision"),
                io.Custom("WANDUET_MEMORY").Input("memory", optional=True),
            ],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model_name: str, precision: str, memory: Any = None) -> io.NodeOutput:
        path = folder_paths.get_full_path_or_raise("diffusion_models", model_name)
        checkpoint = part_of_the_pack("wan_model.loading").open_checkpoint(path)
        attention = part_of_the_pack("wan_model.attention").resolve("sdpa")
        load = part_of_the_pack("nodes._comfy.model.load_models").load_models
        return io.NodeOutput(*load([checkpoint], precision, attention, memory))


class PrecisionTestExtension(ComfyExtension):
    """The nodes of this file."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        comfy.model_management.MIN_WEIGHT_MEMORY_RATIO = 0.0  # as on Nvidia's cards
        return [LoadAnyway]


async def comfy_entrypoint() -> PrecisionTestExtension:
    """Called by ComfyUI when it loads the file."""
    return PrecisionTestExtension()
