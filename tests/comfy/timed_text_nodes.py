"""Test-only ComfyUI nodes: prompts over time by other means, and text as wide as core's models'."""

import json
from types import MethodType
from typing import Any

import torch
from comfy.ldm.modules import attention
from comfy_api.latest import ComfyExtension, io
from torch import Tensor

MODEL, TEXT_DIM = "diffusion_model", 4096


class WideClip:
    """A CLIP whose embeddings are as wide as core's Wan model takes them."""

    layer_idx = 0
    """So that nothing of it is kept on disk."""

    def __init__(self, clip: Any) -> None:
        self._clip = clip

    def __getattr__(self, name: str) -> Any:
        return getattr(self._clip, name)

    def encode_from_tokens(self, tokens: Any) -> Tensor:
        narrow = self._clip.encode_from_tokens(tokens)
        times = -(-TEXT_DIM // narrow.shape[-1])
        steps = torch.linspace(1, 2, times).repeat_interleave(narrow.shape[-1])
        return (narrow.repeat(1, 1, times) * steps)[..., :TEXT_DIM]


class Widen(io.ComfyNode):
    """A CLIP as a `WideClip`."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanDuetTestWideClip",
            category="WanDuet tests",
            inputs=[io.Clip.Input("clip")],
            outputs=[io.Clip.Output()],
        )

    @classmethod
    def execute(cls, clip: Any) -> io.NodeOutput:
        return io.NodeOutput(WideClip(clip))


class TimedFormula(io.ComfyNode):
    """A MODEL whose tokens attend to all of two prompts, added up by weights for each frame."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanDuetTestTimedFormula",
            category="WanDuet tests",
            inputs=[
                io.Model.Input("model"),
                io.Conditioning.Input("first"),
                io.Conditioning.Input("second"),
                io.String.Input("weights"),
            ],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model: Any, first: Any, second: Any, weights: str) -> io.NodeOutput:
        patched = model.clone()
        dit = patched.get_model_object(MODEL)
        texts = [dit.text_embedding(conditioning[0][0]) for conditioning in (first, second)]
        shares = torch.tensor(json.loads(weights))

        def forward(self: Any, x: Tensor, context: Tensor, transformer_options: Any, **_: Any):
            q = self.norm_q(self.q(x))
            per_frame = torch.stack((shares, 1 - shares)).repeat_interleave(
                x.shape[1] // len(shares), 1
            )
            options = {"heads": self.num_heads, "transformer_options": transformer_options}
            total = torch.zeros_like(q)
            kinds = transformer_options["cond_or_uncond"]
            for text, share in zip(texts, per_frame, strict=True):
                parts = []
                for kind, own in zip(kinds, context.chunk(len(kinds)), strict=True):
                    parts.append(own if kind else text.expand(len(own), -1, -1))
                words = torch.cat(parts)
                k, v = self.norm_k(self.k(words)), self.v(words)
                total += attention.optimized_attention(q, k, v, **options) * share.view(1, -1, 1)
            return self.o(total)

        for i, block in enumerate(dit.blocks):
            bound = MethodType(forward, block.cross_attn)
            patched.add_object_patch(f"{MODEL}.blocks.{i}.cross_attn.forward", bound)
        return io.NodeOutput(patched)


class TimedTextExtension(ComfyExtension):
    """The nodes of this file."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [Widen, TimedFormula]


async def comfy_entrypoint() -> TimedTextExtension:
    """Called by ComfyUI when it loads the file."""
    return TimedTextExtension()
