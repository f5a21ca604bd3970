"""The node that sets the limits of the weights engine."""

from typing import Any

from comfy_api.latest import io

from ..wan_model.offload import Limits
from ..wan_model.offload.plan import GIB
from .loaders import CATEGORY

MEMORY_TYPE = "WANDUET_MEMORY"


class WanDuetMemory(io.ComfyNode):
    """Collects limits of memory."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describes the node."""
        return io.Schema(
            node_id="WanDuetMemory",
            display_name="Wan memory",
            category=CATEGORY,
            description="Limits of VRAM and RAM for the engine that streams a model's weights. "
            "They are kept to exactly, or refused with the numbers. The plan is shown before "
            "sampling. Its defaults give the fastest plan that fits, and so does leaving the node "
            "out on Nvidia GPUs; on others the engine is used only with it.",
            inputs=_inputs(),
            outputs=[io.Custom(MEMORY_TYPE).Output(display_name="memory")],
        )

    @classmethod
    def execute(
        cls,
        vram_budget_gb: float,
        blocks_to_swap: int,
        pinned_ram_gb: float,
        prefetch_blocks: int,
    ) -> io.NodeOutput:
        """Returns the limits."""
        return io.NodeOutput(
            Limits(
                blocks_to_swap=None if blocks_to_swap < 0 else blocks_to_swap,
                vram_budget_bytes=int(vram_budget_gb * GIB) or None,
                pinned_ram_bytes=None if pinned_ram_gb < 0 else int(pinned_ram_gb * GIB),
                prefetch_blocks=None if prefetch_blocks < 0 else prefetch_blocks,
            )
        )


def _inputs() -> list[Any]:
    return [
        io.Float.Input(
            "vram_budget_gb",
            default=0.0,
            min=0.0,
            max=1024.0,
            step=0.5,
            round=0.01,
            tooltip="VRAM that sampling may take in all, weights and video, in GiB. 0: what is "
            "free when sampling starts. A budget below that leaves the rest to other programs.",
        ),
        io.Int.Input(
            "blocks_to_swap",
            default=-1,
            min=-1,
            max=40,
            tooltip="Transformer blocks that are streamed to the GPU in every step instead of "
            "staying there: 0 to 40 (A14B), 0 to 30 (5B). -1: as few as fit. A block "
            "travels while others compute.",
        ),
        io.Float.Input(
            "pinned_ram_gb",
            default=-1.0,
            min=-1.0,
            max=1024.0,
            step=0.5,
            round=0.01,
            tooltip="RAM in GiB that is taken for weights and that the system cannot use otherwise "
            "meanwhile. -1: 0.25, and up to 4 where copies would else be slower than computing. "
            "All other weights are read from the file, which the system caches in free RAM.",
        ),
        io.Int.Input(
            "prefetch_blocks",
            default=-1,
            min=-1,
            max=40,
            tooltip="Blocks that are fetched ahead of the one that computes, each in VRAM of its "
            "own. -1: 2, or 1 where VRAM is short. 0 waits for every block: for measurements only.",
        ),
    ]


NODES: list[type[io.ComfyNode]] = [WanDuetMemory]
