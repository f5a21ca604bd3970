"""Test-only ComfyUI nodes that observe a run: what a model is called with, and what it leaves."""

import json
import sys
from collections.abc import Mapping
from copy import copy
from pathlib import Path
from typing import Any

import comfy.model_management
import folder_paths
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import CallbacksMP, WrappersMP
from comfy_api.latest import ComfyExtension, io
from torch import Tensor, nn

LOWEST_FREQUENCY = 10000.0 ** (-127 / 128)
"""Of the timestep embedding; its sine is unambiguous up to timestep 14000."""


def write_line(name: str, value: object) -> None:
    """Appends JSON to `NAME.jsonl` in the output folder."""
    path = Path(folder_paths.get_output_directory()) / f"{name}.jsonl"
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(value) + "\n")


class TimestepReader(nn.Module):
    """Placed before the time embedding, reads off the timesteps that really arrive there."""

    def __init__(self, embedding: nn.Module) -> None:
        super().__init__()
        self.embedding = embedding
        self.seen: list[float] = []

    def forward(self, sinusoid: Tensor) -> Tensor:
        """Takes the sinusoids (U, 256)."""
        angle = torch.asin(sinusoid[:, -1].double())
        self.seen = [round(t, 3) for t in (angle / LOWEST_FREQUENCY).tolist()]
        return self.embedding(sinusoid)


class RecordCalls(io.ComfyNode):
    """A MODEL that writes a line per call of the network: label, timesteps, conditionings.

    Another file, NAME_uses, gets its label whenever it has been loaded and a run begins with it;
    NAME_ends when that is cleaned up, and "LABEL's other" when a model is that it brings along.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanDuetTestRecordCalls",
            category="WanDuet tests",
            inputs=[io.Model.Input("model"), io.String.Input("label"), io.String.Input("name")],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model: Any, label: str, name: str) -> io.NodeOutput:
        recorded = model.clone()
        reader = TimestepReader(model.get_model_object("diffusion_model.time_embedding"))

        def record(executor: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            out = executor(x, *args, **kwargs)
            conds = args[4]["cond_or_uncond"]
            write_line(
                name, {"label": label, "timesteps": sorted(set(reader.seen)), "conds": conds}
            )
            return out

        recorded.add_object_patch("diffusion_model.time_embedding", reader)
        recorded.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", record)
        for when, what in ((CallbacksMP.ON_PRE_RUN, "uses"), (CallbacksMP.ON_CLEANUP, "ends")):
            recorded.add_callback_with_key(
                when, "test", lambda *_, what=what: write_line(f"{name}_{what}", label)
            )
        other = ModelPatcher(nn.Linear(1, 1), model.offload_device, model.offload_device)
        other.add_callback_with_key(
            CallbacksMP.ON_CLEANUP,
            "test",
            lambda *_: write_line(f"{name}_ends", f"{label}'s other"),
        )
        recorded.set_additional_models("test", [other])
        return io.NodeOutput(recorded)


class InterruptAtBlock(io.ComfyNode):
    """A MODEL whose first block presses the cancel button; writes a line per block it runs."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanDuetTestInterrupt",
            category="WanDuet tests",
            inputs=[
                io.Model.Input("model"),
                io.String.Input("name"),
                io.Int.Input("call", default=0),
            ],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model: Any, name: str, call: int) -> io.NodeOutput:
        patched = model.clone()
        calls = 0

        def block(index: int) -> Any:
            def run(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
                nonlocal calls
                write_line(name, [calls, index])
                if (calls, index) == (call, 0):
                    comfy.model_management.interrupt_current_processing()
                calls += index
                return extra["original_block"](args)

            return run

        for index in range(2):
            patched.set_model_patch_replace(block(index), "dit", "double_block", index)
        return io.NodeOutput(patched)


class ModelState(io.ComfyNode):
    """Passes a latent on and writes a description of a MODEL at this moment."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanDuetTestModelState",
            category="WanDuet tests",
            inputs=[io.Model.Input("model"), io.Latent.Input("latent"), io.String.Input("name")],
            outputs=[io.Latent.Output()],
            not_idempotent=True,
        )

    @classmethod
    def execute(cls, model: Any, latent: Any, name: str) -> io.NodeOutput:
        names = ("model_options", "patches", "object_patches", "hook_patches", "wrappers")
        names = (*names, "callbacks")
        state = {n: describe(getattr(model, n)) for n in names}
        state["attachments"] = sorted(model.attachments)
        write_line(name, state)
        return io.NodeOutput(latent)


class ShortOfMemory(io.ComfyNode):
    """Returns a VAE like the given one, whose memory never suffices for whole frames."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanDuetTestShortOfMemory",
            category="WanDuet tests",
            inputs=[io.Vae.Input("vae"), io.String.Input("name")],
            outputs=[io.Vae.Output()],
        )

    @classmethod
    def execute(cls, vae: Any, name: str) -> io.NodeOutput:
        short, stage = copy(vae), copy(vae.first_stage_model)
        model = copy(stage.vae)

        def decode(latent: Any, *, tiling: Any = None, **options: Any) -> Any:
            write_line(name, None if tiling is None else tiling.tile_px)
            if tiling is None:
                raise torch.cuda.OutOfMemoryError("planned")
            return vae.first_stage_model.vae.decode(latent, tiling=tiling, **options)

        model.decode = decode
        stage._modules = {**stage._modules, "vae": model}
        short.first_stage_model = stage
        return io.NodeOutput(short)


class ForgetGraphs(io.ComfyNode):
    """Passes a MODEL on and has PyTorch forget everything that it has compiled."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanDuetTestForgetGraphs",
            category="WanDuet tests",
            inputs=[io.Model.Input("model")],
            outputs=[io.Model.Output()],
            not_idempotent=True,
        )

    @classmethod
    def execute(cls, model: Any) -> io.NodeOutput:
        torch._dynamo.reset()
        return io.NodeOutput(model)


class StreamedBlock(io.ComfyNode):
    """A MODEL whose first block is one that ComfyUI had no room for."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanDuetTestStreamedBlock",
            category="WanDuet tests",
            inputs=[io.Model.Input("model")],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model: Any) -> io.NodeOutput:
        patched = model.clone()

        def streamed(executor: Any, *args: Any, **kwargs: Any) -> Any:
            block = model.model.diffusion_model.blocks[0]
            layers = [m for m in block.modules() if hasattr(m, "comfy_cast_weights")]
            for layer in layers:
                layer.comfy_cast_weights = True
            try:
                return executor(*args, **kwargs)
            finally:
                for layer in layers:
                    layer.comfy_cast_weights = False

        patched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "streamed", streamed)
        return io.NodeOutput(patched)


class BrokenAttention(io.ComfyNode):
    """A MODEL whose low-precision attention gives NaN from some call on; writes a line per call.

    The guard is the one that a model of ours gets when it is built with such a function.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanDuetTestBrokenAttention",
            category="WanDuet tests",
            inputs=[
                io.Model.Input("model"),
                io.String.Input("name"),
                io.Int.Input("first_broken", default=0),
            ],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model: Any, name: str, first_broken: int) -> io.NodeOutput:
        dit = model.model.diffusion_model
        pack = type(dit).__module__.removesuffix(".nodes._comfy.model.comfy_dit")
        attention = sys.modules[f"{pack}.wan_model.attention"]
        registry = sys.modules[f"{pack}.wan_model.attention.registry"]
        exact, calls = attention.resolve("sdpa"), 0

        def attend(*qkv: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            write_line(name, calls)
            out = exact(*qkv)
            return torch.full_like(out, torch.nan) if calls > first_broken else out

        anywhere = attention.Constraints(
            platforms={"other"}, dtypes={torch.float32}, low_precision=True
        )
        backend = attention.Backend("broken", "Broken", lambda _: attend, anywhere)
        selected = registry.Selected(backend, attend, by_name=True)
        with torch.device("meta"):
            built = type(dit)(dit.config, precision=dit.precision, attention=selected)
        patched = model.clone()
        patched.add_object_patch("diffusion_model.attend", built.attend)
        return io.NodeOutput(patched)


class SparseAttention(io.ComfyNode):
    """A MODEL with a fake sparse attention, which is exact, or gives NaN.

    Writes a line per forward pass: label, sigma, what each layer's tokens attended to each other
    with. The guard is the one that a model of ours gets when it is built with such a schedule.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanDuetTestSparseAttention",
            category="WanDuet tests",
            inputs=[
                io.Model.Input("model"),
                io.String.Input("name"),
                io.String.Input("label", default=""),
                io.Boolean.Input("broken", default=False),
            ],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model: Any, name: str, label: str, broken: bool) -> io.NodeOutput:
        dit = model.model.diffusion_model
        pack = type(dit).__module__.removesuffix(".nodes._comfy.model.comfy_dit")
        attention = sys.modules[f"{pack}.wan_model.attention"]
        registry = sys.modules[f"{pack}.wan_model.attention.registry"]
        exact, layers = attention.resolve("sdpa"), []

        def dense(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            if q.shape == k.shape:
                layers.append("dense")
            return exact(q, k, v)

        def sparse(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            layers.append("sparse")
            return torch.full_like(q, torch.nan) if broken else exact(q, k, v)

        def record(executor: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            layers.clear()
            out = executor(x, *args, **kwargs)
            sigma = args[4]["sigmas"][0].item()
            write_line(name, {"label": label, "sigma": sigma, "layers": list(layers)})
            return out

        anywhere = attention.Constraints(
            platforms={"other"}, dtypes={torch.float32}, low_precision=True
        )
        backend = attention.Backend("sparse", "Sparse", lambda _: sparse, anywhere)
        selected = registry.Selected(backend, sparse, by_name=True)
        schedule = attention.SparseSchedule(selected, dense, min_tokens=1024)
        with torch.device("meta"):
            built = type(dit)(dit.config, precision=dit.precision, attention=schedule)
        patched = model.clone()
        patched.add_object_patch("diffusion_model.attend", built.attend)
        patched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "sparse", record)
        return io.NodeOutput(patched)


class AttachHook(io.ComfyNode):
    """A MODEL with a hook that does nothing: a patch, a wrapper, a replacement of some layer."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanDuetTestAttachHook",
            category="WanDuet tests",
            inputs=[
                io.Model.Input("model"),
                io.Combo.Input("kind", options=["patch", "replacement", "wrapper"]),
                io.String.Input("name"),
                io.Int.Input("layer", default=0),
            ],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model: Any, kind: str, name: str, layer: int) -> io.NodeOutput:
        patched = model.clone()

        def replacement(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
            return extra["original_block"](args)

        if kind == "patch":
            patched.set_model_patch(lambda *args: args[0], name)
        elif kind == "replacement":
            patched.set_model_patch_replace(replacement, "dit", name, layer)
        else:
            patched.add_wrapper_with_key(name, "test", replacement)
        return io.NodeOutput(patched)


def describe(value: Any) -> Any:
    """Returns nested containers with every other object named by type and identity."""
    if isinstance(value, Mapping):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [describe(item) for item in value]
    return f"{type(value).__name__} {id(value)}"


class InstrumentExtension(ComfyExtension):
    """The nodes of this file."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        nodes = [RecordCalls, InterruptAtBlock, ModelState, ShortOfMemory]
        nodes += [ForgetGraphs, StreamedBlock, BrokenAttention, SparseAttention, AttachHook]
        return nodes


async def comfy_entrypoint() -> InstrumentExtension:
    """Called by ComfyUI when it loads the file."""
    return InstrumentExtension()
