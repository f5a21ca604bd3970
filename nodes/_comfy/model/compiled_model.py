"""Compiled stages on a MODEL of ours: they travel in the options that reach its forward pass."""

from functools import partial
from typing import Any

from comfy.model_patcher import ModelPatcher
from torch import nn

from ....wan_model.dit.compiled_stages import CompiledStages, Mode
from ....wan_model.dit.compiler_check import check_compiler
from ....wan_model.errors import PairingError
from ..host import runtime
from . import facts
from .comfy_dit import ComfyWanDiT
from .comfy_linear import ComfyLinear
from .forward_pass import COMPILED

STREAMED = (
    "Blocks of which ComfyUI keeps weights in RAM run uncompiled. For all to be compiled, connect "
    "'Wan 2.2 VRAM & Block Swap' to the model's loader."
)


class SharedStages(CompiledStages):
    """What they have compiled belongs to all copies of the options that they travel in."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "SharedStages":
        """Older versions of ComfyUI copy options with everything in them."""
        return self


def with_compiled_stages(model: ModelPatcher, mode: Mode, node_id: str | None) -> ModelPatcher:
    """Returns a clone of a MODEL that is compiled when it runs, instead of one that is already.

    Raises:
        PairingError: if the MODEL is not of our loaders.
        BackendError: if nothing can be compiled here.
    """
    label = facts.model_facts(model).label
    if not isinstance(model.model.diffusion_model, ComfyWanDiT):
        raise PairingError(
            f"This MODEL cannot be compiled by 'Wan 2.2 Torch Compile'. Got {label} of another "
            "loader, need one of 'Wan 2.2 Load Model' or 'Wan 2.2 Load 14B Experts'. Load it "
            "there, or use ComfyUI's own 'TorchCompileModel'."
        )
    check_compiler(model.load_device)
    compiled = model.clone()
    stages = SharedStages(mode, why_not=_why_not, report=partial(_show, node_id, label))
    options = compiled.model_options
    transformer_options = {**options.get("transformer_options", {}), COMPILED: stages}
    compiled.model_options = {**options, "transformer_options": transformer_options}
    return compiled


def _why_not(block: nn.Module) -> str:
    """Says what to do if ComfyUI brings weights of a block for every call.

    Copies of weights are made on streams of their own, and what changes them are functions that
    differ between blocks: each block would be compiled for itself, if at all.
    """
    layers = [part for part in block.modules() if isinstance(part, ComfyLinear)]
    return STREAMED if any(layer.comfy_cast_weights for layer in layers) else ""


def _show(node_id: str | None, label: str, text: str) -> None:
    runtime.show(node_id, f"{label}: {text}")
