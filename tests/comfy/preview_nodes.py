"""A test-only ComfyUI node that gives the moving preview the time that real models give it."""

import threading
from typing import Any

import comfy.model_management
from comfy.patcher_extension import CallbacksMP, WrappersMP
from comfy_api.latest import ComfyExtension, io
from server import PromptServer


class WaitForPreview(io.ComfyNode):
    """A MODEL whose passes take half a second until a preview of this width has been sent."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanDuetTestWaitForPreview",
            category="WanDuet tests",
            inputs=[io.Model.Input("model"), io.Int.Input("width")],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model: Any, width: int) -> io.NodeOutput:
        patient, server, sent = model.clone(), PromptServer.instance, threading.Event()
        send = server.send_sync

        def watch(event: str, data: Any, sid: str | None = None) -> None:
            send(event, data, sid)
            if event == "wanduet.preview" and data.get("width") == width:
                sent.set()

        def wait(executor: Any, *args: Any, **kwargs: Any) -> Any:
            server.send_sync = watch
            comfy.model_management.throw_exception_if_processing_interrupted()
            sent.wait(0.5)
            return executor(*args, **kwargs)

        def end(*_: Any) -> None:
            server.send_sync = send

        patient.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "preview", wait)
        patient.add_callback_with_key(CallbacksMP.ON_CLEANUP, "preview", end)
        return io.NodeOutput(patient)


class PreviewTestExtension(ComfyExtension):
    """The node above."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [WaitForPreview]


async def comfy_entrypoint() -> PreviewTestExtension:
    """Called by ComfyUI when it loads the file."""
    return PreviewTestExtension()
