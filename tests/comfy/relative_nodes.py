"""Test-only: toy checkpoints of core's own Wan family, loaded as core's UNETLoader does."""

import math
from pathlib import Path
from typing import Any

import comfy.ldm.wan.model as wan
import comfy.ops
import comfy.sd
import folder_paths
import torch
from comfy.ldm.wan.model_animate import AnimateWanModel
from comfy_api.latest import ComfyExtension, io
from safetensors.torch import save_file

SIZES: dict[str, Any] = {"dim": 256, "ffn_dim": 512, "num_heads": 2, "num_layers": 2}
FAMILY: dict[str, tuple[Any, dict[str, Any]]] = {
    "vace": (wan.VaceWanModel, {"vace_layers": 1, "vace_in_dim": 96}),
    "fun_control": (wan.WanModel, {"model_type": "t2v", "in_dim": 52, "in_dim_ref_conv": 16}),
    "camera": (wan.CameraWanModel, {"model_type": "camera_2.2", "in_dim": 36}),
    "s2v": (wan.WanModel_S2V, {}),
    "animate": (AnimateWanModel, {"in_dim": 36, "num_layers": 5}),
}


def write_relative(kind: str, seed: int) -> Path:
    """Writes a checkpoint with random weights into ComfyUI's folder."""
    model_class, options = FAMILY[kind]
    sizes = {**SIZES, **options}
    operations = comfy.ops.disable_weight_init
    model = model_class(**sizes, device="cpu", dtype=torch.float32, operations=operations)
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, tensor in model.state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator)
        fan_in = math.prod(tensor.shape[1:]) if tensor.ndim > 1 else 400
        norm = tensor.ndim == 1 and "norm" in name and name.endswith("weight")
        state[name] = noise / math.sqrt(max(1, fan_in)) + float(norm)
    folders = map(Path, folder_paths.get_folder_paths("diffusion_models"))
    file = (
        next(folder for folder in folders if folder.is_dir())
        / f"relative_{kind}_{seed}.safetensors"
    )
    save_file(state, file)
    return file


class RelativeModel(io.ComfyNode):
    """A MODEL of core's family."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanDuetTestRelative",
            category="WanDuet tests",
            inputs=[io.Combo.Input("kind", options=list(FAMILY)), io.Int.Input("seed")],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, kind: str, seed: int) -> io.NodeOutput:
        return io.NodeOutput(comfy.sd.load_diffusion_model(str(write_relative(kind, seed))))


class AddCondition(io.ComfyNode):
    """Sets a key of a conditioning to a latent of zeros, as nodes of others do."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanDuetTestAddCondition",
            category="WanDuet tests",
            inputs=[
                io.Conditioning.Input("conditioning"),
                io.String.Input("key"),
                io.Int.Input("channels", default=16, optional=True),
            ],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, conditioning, key: str, channels: int = 16) -> io.NodeOutput:
        value = [torch.zeros(1, channels, 1, 6, 8)]
        return io.NodeOutput([[text, {**options, key: value}] for text, options in conditioning])


class TestExtension(ComfyExtension):
    """The nodes of this file."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [RelativeModel, AddCondition]


async def comfy_entrypoint() -> TestExtension:
    """Called by ComfyUI when it loads the file."""
    return TestExtension()
