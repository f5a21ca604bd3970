"""Test-only ComfyUI nodes that look at the weights engine, and take memory away from it."""

import ctypes
import json
import os
import sys
import threading
import weakref
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import comfy.model_management
import folder_paths
import torch
from comfy.patcher_extension import CallbacksMP, WrappersMP
from comfy_api.latest import ComfyExtension, io


def write_line(name: str, value: object) -> None:
    """Appends JSON to `NAME.jsonl` in the output folder."""
    path = Path(folder_paths.get_output_directory()) / f"{name}.jsonl"
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(value) + "\n")


class TakeMemory(io.ComfyNode):
    """Does what ComfyUI does for a model that needs room; then writes what ours has.

    `nbytes`: how much is wanted. 0 only looks.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanDuetTestTakeMemory",
            category="WanDuet tests",
            inputs=[
                io.Model.Input("model"),
                io.Latent.Input("latent"),
                io.Int.Input("nbytes", default=0, max=1 << 62),
                io.String.Input("name"),
            ],
            outputs=[io.Latent.Output()],
            not_idempotent=True,
        )

    @classmethod
    def execute(cls, model: Any, latent: Any, nbytes: int, name: str) -> io.NodeOutput:
        loaded = comfy.model_management.current_loaded_models
        ours = [entry for entry in loaded if type(entry.model).__name__ == "WanPatcher"]
        before = model.loaded_size()
        if nbytes:
            for entry in ours:
                if entry.model_unload(nbytes):
                    loaded.remove(entry)
        held = model.pool._engine._traffic._pool.held.items()
        state = {
            "arrivals": sorted([*key, id(buffer.arrival)] for key, buffer in held),
            "entries": len(ours),
            "before": before,
            "loaded": model.loaded_size(),
            "size": model.model_size(),
            "plan": str(model.pool._engine.plan),
            "peak": model.pool._engine.plan.peak_bytes,
            "pinned": model.pool._engine.pinned_bytes,
            "block_bytes": model.pool._engine.plan.request.sizes.block_bytes,
            "activation_bytes": model.pool._engine.plan.request.work.activation_bytes,
            "run_bytes": model.pool._engine.plan.request.work.run_bytes,
        }
        write_line(name, state)
        return io.NodeOutput(latent)


class OutOfMemory(io.ComfyNode):
    """A MODEL whose last block finds the device's memory full, so many times."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanDuetTestOutOfMemory",
            category="WanDuet tests",
            inputs=[io.Model.Input("model"), io.Int.Input("times")],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model: Any, times: int) -> io.NodeOutput:
        patched = model.clone()
        left = times

        def block(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
            nonlocal left
            if left:
                left -= 1
                raise torch.OutOfMemoryError("Tried to allocate 2 GiB")
            return extra["original_block"](args)

        patched.set_model_patch_replace(block, "dit", "double_block", 1)
        return io.NodeOutput(patched)


class CutFile(io.ComfyNode):
    """A MODEL before whose last block a file is cut off, or written to in its place."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanDuetTestCutFile",
            category="WanDuet tests",
            inputs=[io.Model.Input("model"), io.String.Input("file"), io.Boolean.Input("cut")],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model: Any, file: str, cut: bool) -> io.NodeOutput:
        patched = model.clone()

        def after_block(args: dict[str, Any]) -> dict[str, Any]:
            if args["block_index"] == 0 and cut:
                os.truncate(file, 4096)
            elif args["block_index"] == 0:
                os.utime(file)
            return args

        patched.set_model_patch(after_block, "double_block")
        return io.NodeOutput(patched)


class RecordHeld(io.ComfyNode):
    """A MODEL that writes which blocks are on the device, or on their way, after each call."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanDuetTestRecordHeld",
            category="WanDuet tests",
            inputs=[io.Model.Input("model"), io.String.Input("name")],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model: Any, name: str) -> io.NodeOutput:
        recorded = model.clone()

        def record(executor: Any, *args: Any, **kwargs: Any) -> Any:
            out = executor(*args, **kwargs)
            write_line(name, sorted(model.pool._engine._traffic._pool.held))
            return out

        recorded.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", record)
        return io.NodeOutput(recorded)


class Watch(io.ComfyNode):
    """Passes a MODEL on and remembers it weakly, with everything behind it."""

    watched: ClassVar[dict[str, weakref.ref[Any]]] = {}

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanDuetTestWatch",
            category="WanDuet tests",
            inputs=[io.Model.Input("model"), io.String.Input("name")],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model: Any, name: str) -> io.NodeOutput:
        parts = {"patcher": model, "model": model.model, "dit": model.model.diffusion_model}
        parts["pool"] = model.pool
        cls.watched.update({f"{name} {key}": weakref.ref(part) for key, part in parts.items()})
        return io.NodeOutput(model)


class Watched(io.ComfyNode):
    """Writes what is left: watched objects, threads of engines, open model files."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanDuetTestWatched",
            category="WanDuet tests",
            inputs=[io.String.Input("name"), io.Latent.Input("after", optional=True)],
            outputs=[],
            is_output_node=True,
            not_idempotent=True,
        )

    @classmethod
    def execute(cls, name: str, after: Any = None) -> io.NodeOutput:  # noqa: ARG003
        alive = [key for key, ref in Watch.watched.items() if ref() is not None]
        threads = [t for t in threading.enumerate() if t.name.startswith("wan-")]
        if not alive:
            for thread in threads:
                thread.join(60)
        names = [thread.name for thread in threads if thread.is_alive()]
        write_line(name, {"alive": alive, "threads": names, "files": open_model_files()})
        return io.NodeOutput()


class MallInfo(ctypes.Structure):
    """What glibc's `mallinfo2` returns, in bytes; of all threads' arenas together."""

    _names = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks")
    _fields_: ClassVar = [(name, ctypes.c_size_t) for name in (*_names, "fordblks", "keepcost")]


class Heap(io.ComfyNode):
    """Has glibc return what it can; writes how many bytes are taken from it, 0 elsewhere.

    And how many threads there are but for asyncio's, which starts another when it is busy. Linux.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanDuetTestHeap",
            category="WanDuet tests",
            inputs=[io.String.Input("name")],
            outputs=[],
            is_output_node=True,
            not_idempotent=True,
        )

    @classmethod
    def execute(cls, name: str) -> io.NodeOutput:
        libc, used = ctypes.CDLL(None), 0
        if hasattr(libc, "mallinfo2"):
            libc.malloc_trim(0)
            libc.mallinfo2.restype = MallInfo
            info = libc.mallinfo2()
            used = info.uordblks + info.hblkhd
        # In this order: what asyncio starts in between is in neither.
        tasks = set(os.listdir("/proc/self/task"))
        threads = [t for t in threading.enumerate() if t.name.startswith("asyncio_")]
        write_line(name, [used, len(tasks - {str(t.native_id) for t in threads})])
        return io.NodeOutput()


class CopyToDevice(io.ComfyNode):
    """A copy with weights of its own on "cpu:0", as core's Select Model Device makes it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanDuetTestCopyToDevice",
            category="WanDuet tests",
            inputs=[io.Model.Input("model")],
            outputs=[io.Model.Output(), io.Model.Output()],
        )

    @classmethod
    def execute(cls, model: Any) -> io.NodeOutput:
        device = torch.device("cpu", 0)
        if hasattr(model, "deepclone_multigpu"):
            copies = model.deepclone_multigpu(device), model.clone(force_deepcopy=True)
        else:  # of older cores: what the two do
            load, arguments = loaded_by(model)
            copies = load(*arguments), load(*arguments, disable_dynamic=True)
            copies[0].load_device = device
            for copy in copies:
                copy.patches, copy.attachments = model.patches, model.attachments
        assert copies[0].model is not model.model
        assert copies[1].model is not model.model
        return io.NodeOutput(*copies)


def loaded_by(model: Any) -> Any:
    """Returns the function that a MODEL was loaded by, and its arguments."""
    while not hasattr(model, "cached_patcher_init"):
        model = model.parent
    return model.cached_patcher_init


class OnTwoDevices(io.ComfyNode):
    """Both experts loaded again, one on "cpu" and one on "cpu:0", as by the expert loader."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanDuetTestOnTwoDevices",
            category="WanDuet tests",
            inputs=[io.Model.Input("model_high"), io.Model.Input("model_low")],
            outputs=[io.Model.Output(), io.Model.Output()],
        )

    @classmethod
    def execute(cls, model_high: Any, model_low: Any) -> io.NodeOutput:
        (load, arguments), (_, of_low) = (loaded_by(model) for model in (model_high, model_low))
        loading = sys.modules[load.__module__]
        files = [loading.open_checkpoint(path) for path in (arguments[0], of_low[0])]
        devices = [torch.device("cpu"), torch.device("cpu", 0)]
        (high,), (low,) = (
            loading.load_models([file], *arguments[1:], device)
            for file, device in zip(files, devices, strict=True)
        )
        high.patches, low.patches = model_high.patches, model_low.patches
        assert [high.load_device, low.load_device] == devices
        assert arguments[3] is None or high.pool is not low.pool
        assert not high.is_clone(low)
        return io.NodeOutput(high, low)


def open_model_files() -> list[str]:
    """Returns the names of open checkpoints."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            continue
        if target.endswith(".safetensors"):
            found.append(os.path.basename(target))
    return found


def part_of_the_pack(name: str) -> ModuleType:
    """Returns a module of the pack, as ComfyUI has imported it."""
    (found,) = (m for path, m in sys.modules.items() if path.endswith(f"wan-duet.{name}"))
    return found


class LoadAnyway(io.ComfyNode):
    """Loads a model like our loader, which refuses 8-bit matmuls on a CPU as slow."""

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


class MoveBlocks(io.ComfyNode):
    """A MODEL whose blocks are moved away when it is loaded, as nodes for block swap do."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanDuetTestMoveBlocks",
            category="WanDuet tests",
            inputs=[io.Model.Input("model")],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model: Any) -> io.NodeOutput:
        def move(patcher: Any, *_: Any) -> None:
            for block in patcher.model.diffusion_model.blocks:
                block.to("meta")  # which leaves nothing of what does move

        moved = model.clone()
        moved.add_callback(CallbacksMP.ON_LOAD, move)
        return io.NodeOutput(moved)


class MemoryTestExtension(ComfyExtension):
    """The nodes of this file."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        nodes = [TakeMemory, OutOfMemory, CutFile, RecordHeld, Watch, Watched, CopyToDevice]
        return [*nodes, Heap, LoadAnyway, OnTwoDevices, MoveBlocks]


async def comfy_entrypoint() -> MemoryTestExtension:
    """Called by ComfyUI when it loads the file."""
    return MemoryTestExtension()
