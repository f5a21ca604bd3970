"""Test-only ComfyUI nodes that patch a MODEL as packs do, written against core's Wan model."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import MethodType
from typing import Any
from unittest.mock import patch

import folder_paths
import torch
from comfy.ldm.flux.math import apply_rope1
from comfy.ldm.modules import attention
from comfy.patcher_extension import CallbacksMP
from comfy_api.latest import ComfyExtension, io
from torch import Tensor, nn

Patch = Callable[[Any], None]
"""Adds hooks to a clone of a MODEL."""

MODEL = "diffusion_model"


def override_attention(model: Any) -> None:
    """As nodes that choose a kernel of attention; this one sharpens it."""

    def override(func: Any, q: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return func(1.5 * q, *args, **kwargs)

    model.model_options["transformer_options"]["optimized_attention_override"] = override


def override_in_state(model: Any) -> None:
    """As nodes that put a kernel of attention in place for every step; it reads block and noise."""

    def override(func: Any, q: Tensor, *args: Any, transformer_options: Any, **kwargs: Any):
        q = q * (1.5 + transformer_options["block_index"] + transformer_options["sigmas"].mean())
        return func(q, *args, transformer_options=transformer_options, **kwargs)

    def install(_: Any, __: Any, options: dict[str, Any]) -> None:
        inner = {**options["transformer_options"], "optimized_attention_override": override}
        options["transformer_options"] = inner

    model.add_callback(CallbacksMP.ON_PREPARE_STATE, install)


def guide_text(model: Any) -> None:
    """Normalized attention guidance, as its authors' numbers have it."""
    dit = model.get_model_object(MODEL)
    text = torch.randn(1, 512, 4096, generator=torch.Generator().manual_seed(3))
    unwanted = dit.text_embedding(text)

    def forward(self: Any, x: Tensor, context: Tensor, transformer_options: Any, **_: Any):
        q = self.norm_q(self.q(x))
        found = []
        for words in (context, unwanted.expand(len(x), -1, -1)):
            k, v = self.norm_k(self.k(words)), self.v(words)
            options = {"heads": self.num_heads, "transformer_options": transformer_options}
            found.append(attention.optimized_attention(q, k, v, **options))
        wanted, away = found[0], 11 * found[0] - 10 * found[1]
        norms = [torch.linalg.vector_norm(part, 1, -1, True) for part in (wanted, away)]
        growth = (norms[1] / norms[0]).nan_to_num(10.0)
        away = torch.where(growth > 2.5, away * (2.5 * norms[0] / (norms[1] + 1e-7)), away)
        guided = 0.25 * away + 0.75 * wanted
        kinds = transformer_options["cond_or_uncond"]
        parts = zip(kinds, guided.chunk(len(kinds)), wanted.chunk(len(kinds)), strict=True)
        return self.o(torch.cat([plain if kind else moved for kind, moved, plain in parts]))

    for i, block in enumerate(dit.blocks):
        bound = MethodType(forward, block.cross_attn)
        model.add_object_patch(f"{MODEL}.blocks.{i}.cross_attn.forward", bound)


def relay_prompt(model: Any) -> None:
    """As nodes that change what text a layer sees, and call it as it was."""
    dit = model.get_model_object(MODEL)
    for i, block in enumerate(dit.blocks):

        def forward(
            x: Tensor, context: Tensor, transformer_options: Any = None, *, layer=block, **kw: Any
        ) -> Tensor:
            first = context[:, :256]
            known = type(layer.cross_attn).forward
            return known(
                layer.cross_attn, x, first, transformer_options=transformer_options or {}, **kw
            )

        model.add_object_patch(f"{MODEL}.blocks.{i}.cross_attn.forward", forward)


def enhance_motion(model: Any) -> None:
    """As Enhance-A-Video: self-attention anew, scaled by how much frames attend to each other."""
    dit = model.get_model_object(MODEL)

    def forward(self: Any, x: Tensor, freqs: Tensor, transformer_options: Any = None) -> Tensor:
        shape = (*x.shape[:2], self.num_heads, self.head_dim)
        q = apply_rope1(self.norm_q(self.q(x)).view(shape), freqs)
        k = apply_rope1(self.norm_k(self.k(x)).view(shape), freqs)
        v = self.v(x).view(*x.shape[:2], self.num_heads * self.head_dim)
        options = {"heads": self.num_heads, "transformer_options": transformer_options or {}}
        out = attention.optimized_attention(q.flatten(2), k.flatten(2), v, **options)
        score = (q * k).sum(-1).mean() / math.sqrt(self.head_dim)
        return self.o(out) * (1.2 + 0.1 * score.tanh())

    for i, block in enumerate(dit.blocks):
        bound = MethodType(forward, block.self_attn)
        model.add_object_patch(f"{MODEL}.blocks.{i}.self_attn.forward", bound)


def patch_self_attention(model: Any) -> None:
    """Core's attn1_patch, on what is attended to."""

    def scaled(args: dict[str, Any]) -> Tensor:
        assert args["q"].shape == args["k"].shape
        assert args["q"].flatten(2).shape == args["x"].shape
        return 1.5 * args["x"]

    model.set_model_patch(scaled, "attn1_patch")


def scale_before_output(model: Any) -> None:
    """What `patch_self_attention` comes to."""
    dit = model.get_model_object(MODEL)
    for i, block in enumerate(dit.blocks):
        output = block.self_attn.o

        def forward(x: Tensor, *args: Any, layer: nn.Module = output, **kwargs: Any) -> Tensor:
            return type(layer).forward(layer, 1.5 * x, *args, **kwargs)

        model.add_object_patch(f"{MODEL}.blocks.{i}.self_attn.o.forward", forward)


def ramp(x: Tensor) -> Tensor:
    """Returns something to add to tokens (B, L, C)."""
    return torch.linspace(0, 0.2, x.shape[-1], dtype=x.dtype, device=x.device)


def patch_cross_attention(model: Any) -> None:
    """Core's attn2_patch, on the tokens after cross-attention."""
    model.set_model_patch(lambda args: args["x"] + ramp(args["x"]), "attn2_patch")


def shift_cross_attention(model: Any) -> None:
    """What `patch_cross_attention` comes to."""
    dit = model.get_model_object(MODEL)
    for i, block in enumerate(dit.blocks):

        def forward(*args: Any, layer: nn.Module = block.cross_attn, **kwargs: Any) -> Tensor:
            branch = type(layer).forward(layer, *args, **kwargs)
            return branch + ramp(branch)

        model.add_object_patch(f"{MODEL}.blocks.{i}.cross_attn.forward", forward)


def patch_block(model: Any) -> None:
    """Core's double_block patch, with something kept from one block to the next."""
    kept: list[Tensor] = []

    def halve_change(args: dict[str, Any]) -> dict[str, Any]:
        if args["block_index"] == 0:
            kept[:] = [args["img"]]
            return {"img": args["img"]}
        assert args["vec"].shape[0] == args["x"].shape[0]
        return {"img": (args["img"] + kept.pop()) / 2}

    model.set_model_patch(halve_change, "double_block")


def halve_last_block(model: Any) -> None:
    """What `patch_block` comes to; also a replacement that compares before and after."""

    def replacement(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        change = extra["original_block"](args)["img"] - args["img"]
        return {"img": args["img"] + change / 2}

    last = len(model.get_model_object(MODEL).blocks) - 1
    model.set_model_patch_replace(replacement, "dit", "double_block", last)


def embed_time_after_block(model: Any) -> None:
    """Core's double_block patch, on what the timesteps became."""

    def added(args: dict[str, Any]) -> dict[str, Any]:
        return {"img": args["img"] + args["vec"].mean(1, keepdim=True)}

    model.set_model_patch(added, "double_block")


def replace_inputs(model: Any) -> None:
    """A replacement that gives a block other inputs."""

    def replacement(args: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
        other = {"txt": args["txt"].flip(1)[:, :300], "vec": 0.8 * args["vec"]}
        return extra["original_block"](args | other | {"pe": args["pe"].flip(1)})

    model.set_model_patch_replace(replacement, "dit", "double_block", 0)


def wrap_blocks(model: Any) -> None:
    """A block's forward in another one, called as core calls it."""
    dit = model.get_model_object(MODEL)
    for i, block in enumerate(dit.blocks):

        def forward(x: Tensor, *args: Any, layer: nn.Module = block, **kwargs: Any) -> Tensor:
            return x + 0.7 * (type(layer).forward(layer, x, *args, **kwargs) - x)

        model.add_object_patch(f"{MODEL}.blocks.{i}.forward", forward)


def feed_in_parts(model: Any) -> None:
    """As nodes that feed forward in parts to save memory."""
    dit = model.get_model_object(MODEL)
    for i, block in enumerate(dit.blocks):

        def forward(x: Tensor, layer: nn.Module = block.ffn) -> Tensor:
            return 1.2 * torch.cat([type(layer).forward(layer, part) for part in x.chunk(3, 1)], 1)

        model.add_object_patch(f"{MODEL}.blocks.{i}.ffn.forward", forward)


def stretch_positions(model: Any) -> None:
    """As core's ScaleROPE."""
    model.model_options["transformer_options"]["rope_options"] = {
        "scale_x": 1.5,
        "scale_y": 0.5,
        "scale_t": 3.0,
        "shift_x": 1.0,
        "shift_y": -2.0,
        "shift_t": 4.0,
    }


class SlowedEmbedder(nn.Module):
    """As RIFLEx: one frequency of time is another."""

    def __init__(self, dim: int, theta: float, axes_dim: list[int]) -> None:
        super().__init__()
        self.dim, self.theta, self.axes_dim = dim, theta, axes_dim

    def forward(self, ids: Tensor) -> Tensor:
        parts = []
        for axis, width in enumerate(self.axes_dim):
            frequencies = self.theta ** -(torch.arange(0, width, 2, dtype=torch.float64) / width)
            if axis == 0:
                frequencies[0] = 0.1
            angle = ids[..., axis, None].double() * frequencies
            rows = (angle.cos(), -angle.sin(), angle.sin(), angle.cos())
            parts.append(torch.stack(rows, -1).unflatten(-1, (2, 2)))
        return torch.cat(parts, dim=-3).float().unsqueeze(1)


def slow_frequency(model: Any) -> None:
    """As the RifleX node."""
    dit = model.model.diffusion_model
    d = dit.dim // dit.num_heads
    widths = [d - 4 * (d // 6), 2 * (d // 6), 2 * (d // 6)]
    model.add_object_patch(f"{MODEL}.rope_embedder", SlowedEmbedder(d, 10000.0, widths))


PATCHES: dict[str, Patch] = {
    function.__name__: function
    for function in (
        *(override_attention, guide_text, relay_prompt, enhance_motion, patch_self_attention),
        *(scale_before_output, patch_cross_attention, shift_cross_attention, patch_block),
        *(halve_last_block, embed_time_after_block, replace_inputs, wrap_blocks, feed_in_parts),
        *(stretch_positions, slow_frequency, override_in_state),
    )
}


class PatchModel(io.ComfyNode):
    """A MODEL with the patches of one kind of other node; "" leaves it as it is."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanDuetTestPatch",
            category="WanDuet tests",
            inputs=[io.Model.Input("model"), io.Combo.Input("kind", options=["", *PATCHES])],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model: Any, kind: str) -> io.NodeOutput:
        patched = model.clone()
        if kind:
            PATCHES[kind](patched)
        return io.NodeOutput(patched)


class ReplaceForward(io.ComfyNode):
    """A MODEL whose calls replace the inside of core's Wan model, as some step caches do."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanDuetTestReplaceForward",
            category="WanDuet tests",
            inputs=[io.Model.Input("model")],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model: Any) -> io.NodeOutput:
        patched = model.clone()
        dit = patched.get_model_object(MODEL)

        def wrapper(apply_model: Any, call: dict[str, Any]) -> Tensor:
            with patch.multiple(dit, forward_orig=MethodType(lambda *args, **_: args[1], dit)):
                return apply_model(call["input"], call["timestep"], **call["c"])

        patched.set_model_unet_function_wrapper(wrapper)
        return io.NodeOutput(patched)


class ReadOptions(io.ComfyNode):
    """A MODEL whose self-attention writes a line for each call: what the options say of it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanDuetTestReadOptions",
            category="WanDuet tests",
            inputs=[io.Model.Input("model"), io.String.Input("name")],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model: Any, name: str) -> io.NodeOutput:
        patched = model.clone()
        path = Path(folder_paths.get_output_directory()) / f"{name}.jsonl"
        names = ("block_index", "total_blocks", "block_type", "grid_sizes")

        def read(args: dict[str, Any]) -> Tensor:
            with path.open("a", encoding="utf-8") as file:
                found = {name: args["transformer_options"][name] for name in names}
                file.write(json.dumps(found) + "\n")
            return args["x"]

        patched.set_model_patch(read, "attn1_patch")
        return io.NodeOutput(patched)


class PatchObject(io.ComfyNode):
    """A MODEL with object patches that do nothing, at any places."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanDuetTestPatchObject",
            category="WanDuet tests",
            inputs=[
                io.Model.Input("model"),
                io.String.Input("name"),
                io.Boolean.Input("compiled", default=False, optional=True),
            ],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model: Any, name: str, compiled: bool = False) -> io.NodeOutput:
        patched = model.clone()
        for path in name.split():
            found = getattr(model.model, MODEL)
            for step in path.split(".")[1:]:
                found = getattr(found, step, None)
            patched.add_object_patch(path, torch.compile(found) if compiled else found)
        return io.NodeOutput(patched)


class PatchExtension(ComfyExtension):
    """The nodes of this file."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [PatchModel, ReplaceForward, ReadOptions, PatchObject]


async def comfy_entrypoint() -> PatchExtension:
    """Called by ComfyUI when it loads the file."""
    return PatchExtension()
