"""A test-only ComfyUI node for moving previews, which are shown seldom where they cost much."""

import sys
from typing import Any

from comfy.patcher_extension import WrappersMP
from comfy_api.latest import ComfyExtension, io


class PreviewAnyTime(io.ComfyNode):
    """A MODEL whose runs may spend all of their time on previews."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanDuetTestPreviewAnyTime",
            category="WanDuet tests",
            inputs=[io.Model.Input("model")],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model: Any) -> io.NodeOutput:
        name = "wan-duet.nodes._comfy.sampling.latent_video"
        (previews,) = (module for path, module in sys.modules.items() if path.endswith(name))

        def run(executor: Any, *args: Any, **kwargs: Any) -> Any:
            share, previews.SHARE = previews.SHARE, float("inf")
            try:
                return executor(*args, **kwargs)
            finally:
                previews.SHARE = share

        eager = model.clone()
        eager.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "previews", run)
        return io.NodeOutput(eager)


class PreviewTestExtension(ComfyExtension):
    """The node of this file."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [PreviewAnyTime]


async def comfy_entrypoint() -> PreviewTestExtension:
    """Called by ComfyUI when it loads the file."""
    return PreviewTestExtension()
