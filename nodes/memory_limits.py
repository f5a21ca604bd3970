"""The node that sets the limits of the weights engine."""

import math

from comfy_api.latest import io

from ..wan_model.errors import SettingsError
from ..wan_model.offload import Limits
from ..wan_model.offload.plan import GIB
from ._report import reports_errors
from .loaders import CATEGORY
from .search_words import search_words
from .widgets import widgets

MEMORY_TYPE = "WANDUET_MEMORY"


class WanDuetMemory(io.ComfyNode):
    """Collects limits of memory."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describes the node."""
        return io.Schema(
            node_id="WanDuetMemory",
            display_name="Wan 2.2 VRAM & Block Swap",
            **search_words("WanDuetMemory"),
            category=CATEGORY,
            description=(
                "Limits of VRAM and RAM, for a loader's memory input. Without this node WanDuet "
                "uses the fastest plan that fits."
            ),
            inputs=widgets("vram_budget_gb", "blocks_to_swap", "pinned_ram_gb", "prefetch_blocks"),
            outputs=[io.Custom(MEMORY_TYPE).Output(display_name="memory")],
        )

    @classmethod
    @reports_errors
    def execute(
        cls,
        vram_budget_gb: float,
        blocks_to_swap: int,
        pinned_ram_gb: float,
        prefetch_blocks: int,
    ) -> io.NodeOutput:
        """Returns the limits.

        Raises:
            SettingsError: for what is no number, which only other nodes can give.
        """
        if not (math.isfinite(vram_budget_gb) and math.isfinite(pinned_ram_gb)):
            raise SettingsError(
                f"The memory limits cannot be used. Got {vram_budget_gb} GiB of VRAM and "
                f"{pinned_ram_gb} GiB of RAM, need numbers. Change what is connected."
            )
        return io.NodeOutput(
            Limits(
                blocks_to_swap=None if blocks_to_swap < 0 else blocks_to_swap,
                vram_budget_bytes=int(vram_budget_gb * GIB) or None,
                pinned_ram_bytes=None if pinned_ram_gb < 0 else int(pinned_ram_gb * GIB),
                prefetch_blocks=None if prefetch_blocks < 0 else prefetch_blocks,
            )
        )


NODES: list[type[io.ComfyNode]] = [WanDuetMemory]
