"""A ComfyUI extension for tests: makes ComfyUI on a CPU believe in a card of little memory.

The card is the device "cpu:0", which ComfyUI's memory manager takes for another than "cpu". What
models have there is what their patchers say.
"""

import weakref
from typing import Any

import comfy.model_management as manager
import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import ComfyExtension, io

CARD = torch.device("cpu", 0)
MIB = 1 << 20
SIZE = {"bytes": 0}
POOLS: weakref.WeakSet[Any] = weakref.WeakSet()
"""Every pool of weights that was ever loaded and still lives."""


def taken() -> int:
    """Returns what all models have on the card, whether or not ComfyUI still knows of them."""
    others = [
        entry.model.loaded_size()
        for entry in manager.current_loaded_models
        if entry.model is not None and not hasattr(entry.model.model, "pool")
    ]
    return sum(pool.device_bytes for pool in POOLS) + sum(others)


def emulate() -> None:
    """Replaces what ComfyUI knows of its device."""
    free_of, is_cpu = manager.get_free_memory, manager.is_device_cpu
    load = manager.load_models_gpu

    def load_models_gpu(models: Any, *args: Any, **kwargs: Any) -> Any:
        POOLS.update(model.model.pool for model in models if hasattr(model.model, "pool"))
        return load(models, *args, **kwargs)

    def get_free_memory(device: Any = None, torch_free_too: bool = False) -> Any:
        if device != CARD:
            return free_of(device, torch_free_too)
        free = SIZE["bytes"] - taken()
        assert free >= 0
        return (free, 0) if torch_free_too else free

    manager.load_models_gpu = load_models_gpu
    manager.get_free_memory = get_free_memory
    manager.is_device_cpu = lambda device: is_cpu(device) and device != CARD
    manager.get_torch_device = lambda: CARD
    manager.vram_state = manager.VRAMState.NORMAL_VRAM
    manager.EXTRA_RESERVED_VRAM = 0
    manager.minimum_inference_memory = lambda: 0


class SetCard(io.ComfyNode):
    """Exchanges the card."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanDuetTestSetCard",
            category="WanDuet tests",
            inputs=[
                io.Int.Input("nbytes", max=1 << 62),
                io.Int.Input("reserved", default=0, max=1 << 62, optional=True),
            ],
            outputs=[],
            is_output_node=True,
            not_idempotent=True,
        )

    @classmethod
    def execute(cls, nbytes: int, reserved: int = 0) -> io.NodeOutput:
        manager.unload_all_models()
        manager.EXTRA_RESERVED_VRAM = reserved
        assert taken() == 0
        SIZE["bytes"] = nbytes
        return io.NodeOutput()


class LoadOther(io.ComfyNode):
    """Loads a model of some MiB onto the card, as a VAE or a text encoder would be."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanDuetTestLoadOther",
            category="WanDuet tests",
            inputs=[io.Latent.Input("latent"), io.Int.Input("mib")],
            outputs=[io.Latent.Output()],
            not_idempotent=True,
        )

    @classmethod
    def execute(cls, latent: Any, mib: int) -> io.NodeOutput:
        other = torch.nn.Linear(mib * MIB // 1024, 256, bias=False)
        other.requires_grad_(False)
        patcher = ModelPatcher(other, CARD, torch.device("cpu"))
        manager.load_models_gpu([patcher], force_full_load=True)
        assert taken() <= SIZE["bytes"]
        assert patcher.loaded_size() == mib * MIB
        return io.NodeOutput(latent)


class CardExtension(ComfyExtension):
    """The nodes of this file."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        emulate()
        return [SetCard, LoadOther]


async def comfy_entrypoint() -> CardExtension:
    """Called by ComfyUI when it loads the file."""
    return CardExtension()
