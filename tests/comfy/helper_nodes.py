"""Test-only ComfyUI nodes: inputs and outputs that no stock node offers."""

from pathlib import Path

import folder_paths
import torch
from comfy_api.latest import ComfyExtension, io
from safetensors.torch import save_file


class RandomConditioning(io.ComfyNode):
    """A seeded random text embedding, so that stock models of text width 4096 need no encoder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanDuetTestConditioning",
            category="WanDuet tests",
            inputs=[
                io.Int.Input("seed", default=0, min=0, max=2**31),
                io.Int.Input("tokens", default=512, min=1, max=512),
                io.Int.Input("text_dim", default=4096, min=1, max=8192),
            ],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, seed: int, tokens: int, text_dim: int) -> io.NodeOutput:
        generator = torch.Generator().manual_seed(seed)
        return io.NodeOutput([[torch.randn(1, tokens, text_dim, generator=generator), {}]])


class SaveTensors(io.ComfyNode):
    """Saves latents and pictures exactly, as `NAME.safetensors` in the output folder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanDuetTestSaveTensors",
            category="WanDuet tests",
            inputs=[
                io.String.Input("name"),
                io.Latent.Input("latent", optional=True),
                io.Image.Input("image", optional=True),
                io.Sigmas.Input("sigmas", optional=True),
                io.Conditioning.Input("conditioning", optional=True),
            ],
            outputs=[],
            is_output_node=True,
            not_idempotent=True,
        )

    @classmethod
    def execute(
        cls, name: str, latent=None, image=None, sigmas=None, conditioning=None
    ) -> io.NodeOutput:
        tensors = {"image": image, "sigmas": sigmas}
        if latent is not None:
            tensors |= {key: latent.get(key) for key in ("samples", "noise_mask")}
        if conditioning is not None:
            embedding, options = conditioning[0]
            tensors |= {"conditioning": embedding}
            tensors |= {k: v for k, v in options.items() if isinstance(v, torch.Tensor)}
        present = {k: v.contiguous().clone() for k, v in tensors.items() if v is not None}
        save_file(present, Path(folder_paths.get_output_directory()) / f"{name}.safetensors")
        return io.NodeOutput()


class TestExtension(ComfyExtension):
    """The nodes of this file."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [RandomConditioning, SaveTensors]


async def comfy_entrypoint() -> TestExtension:
    """Called by ComfyUI when it loads the file."""
    return TestExtension()
