"""Our MODEL as the tensors that ComfyUI's own nodes write, in a form that every loader reads right.

Quantized weights are kept where ComfyUI has a way to say what they are. Others, and those with
LoRAs, which would be rounded again, are written in 16 bit.
"""

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import comfy.utils
import torch
from comfy import quant_ops
from torch import Tensor

from ....wan_model.loading.encodings import encoding_of
from ....wan_model.quant import SCALED, Linear, StoredWeight
from ....wan_model.writing.writer import weight_tensors
from .dense_patches import with_patches
from .lora_report import report
from .low_rank import PREFIX, Patches
from .object_patches import PatchablePatcher

if TYPE_CHECKING:
    from .comfy_dit import ComfyWanDiT

IN_FILES = "model.diffusion_model."
"""What ComfyUI puts before the names of a transformer's tensors."""

LEGACY = SCALED[torch.float8_e4m3fn]
"""The format that ComfyUI has read the longest, and in which files are spelled as they were then:
a `scaled_fp8` tensor, whose two elements ask for matmuls in full precision, and scale_weight."""

NOTES = set(quant_ops.QUANT_ALGOS) if hasattr(comfy.utils, "convert_old_quants") else set[str]()
"""Notes that this ComfyUI reads beside weights; before 0.4 it read none."""

PATCHER_SAVES = hasattr(PatchablePatcher, "model_state_dict_for_saving")
"""Whether the patcher gives what is saved, with patches that are not merged."""


class SavingPatcher(PatchablePatcher):
    """A patcher that gives our transformer's tensors as files hold them, and says what LoRAs do."""

    def add_patches(self, patches: Any, *strengths: Any, **options: Any) -> list[Any]:
        """Adds patches, such as those of a LoRA file; returns the keys that the model has."""
        taken = super().add_patches(patches, *strengths, **options)
        report(self.model.diffusion_model, patches, taken)
        return taken

    def add_file_patches(self, patches: Any, strength: float) -> None:
        """Adds patches of a LoRA file whose node says itself what becomes of it."""
        super().add_patches(patches, strength)

    def add_hook_patches(self, hook: Any, patches: Any, *strengths: Any, **options: Any) -> Any:
        """Adds patches that a hook switches on and off."""
        taken = super().add_hook_patches(hook, patches, *strengths, **options)
        report(self.model.diffusion_model, patches, taken, only_trouble=True)
        return taken

    def model_state_dict_for_saving(self, model: Any = None, prefix: str = "") -> dict[str, Tensor]:
        """Returns the transformer's tensors by name, with patches."""
        if model is not self.model.diffusion_model:
            return super().model_state_dict_for_saving(model, prefix)  # pyright: ignore
        return saved_tensors(model, self.unmerged_patches(), self.load_device)

    def unmerged_patches(self) -> Patches:
        """Returns the patches that the weights in place do not have."""
        return self.patches


class SavingModel:
    """The same for a ComfyUI whose patcher merges everything, and whose model is asked."""

    diffusion_model: "ComfyWanDiT"
    unmerged: Patches = MappingProxyType({})
    """Patches of the patcher that was loaded last to be saved, if it merges none."""

    def state_dict_for_saving(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Returns what a checkpoint of the model and others given here consists of."""
        state = super().state_dict_for_saving(*args, **kwargs)  # pyright: ignore
        if PATCHER_SAVES:
            return state
        others = {name: part for name, part in state.items() if not name.startswith(IN_FILES)}
        ours = saved_tensors(self.diffusion_model, self.unmerged, torch.device("cpu"))
        return others | {f"{IN_FILES}{name}": tensor for name, tensor in ours.items()}


def saved_tensors(dit: "ComfyWanDiT", patches: Patches, device: torch.device) -> dict[str, Tensor]:
    """Returns a transformer as a file holds it.

    Args:
        dit: ours.
        patches: that are not merged, by ComfyUI's keys.
        device: where they are merged.

    Raises:
        CheckpointError: if the file that it lies in was written to.
    """
    dit.check_files()
    patched = {key.removeprefix(PREFIX): patch for key, patch in patches.items()}
    layers = {path: part for path, part in dit.named_modules() if isinstance(part, Linear)}
    quantized = {
        path: layer.stored()
        for path, layer in layers.items()
        if layer.format.is_quantized or layer.weight_scale is not None
    }
    unpatched = {p: stored for p, stored in quantized.items() if f"{p}.weight" not in patched}
    legacy = all(p in unpatched and _is_legacy(unpatched[p]) for p in layers if "blocks." in p)
    bare = all(stored.format.is_plain for stored in unpatched.values())
    state = {name: tensor.detach() for name, tensor in dit.state_dict().items()}
    for path, stored in quantized.items():
        for leaf, _ in stored.tensors():
            del state[f"{path}.{leaf}"]
        if path not in unpatched or not (bare or (_is_legacy if legacy else _is_noted)(stored)):
            state[f"{path}.weight"] = stored.dequantize(torch.bfloat16)
        elif legacy:
            state[f"{path}.weight"], state[f"{path}.scale_weight"] = stored.weight, _scale(stored)
        else:
            state |= weight_tensors(path, stored)
    for name, patch in patched.items():
        stored = quantized.get(name.removesuffix(".weight"))
        weight = state[name] if stored is None else stored.dequantize(torch.float32)
        weight = weight.to(device, torch.float32, copy=True)
        merged = with_patches(weight, PREFIX + name, patch)
        state[name] = merged.to("cpu", state[name].dtype)
    if legacy:
        state["scaled_fp8"] = torch.zeros(2, dtype=LEGACY.dtype)
    return {name: tensor.cpu().contiguous() for name, tensor in state.items()}


def _is_legacy(stored: StoredWeight) -> bool:
    return stored.format is LEGACY and _scale(stored).numel() == 1


def _is_noted(stored: StoredWeight) -> bool:
    encoding = encoding_of(stored.format)
    if encoding.format.rotation and "convrot_w4a4" not in NOTES:
        return False  # int8 is known there, and what its note says of a rotation is not
    smoothed = stored.pre_quant_scale is not None
    if smoothed and "pre_quant_scale" not in quant_ops.QUANT_ALGOS["nvfp4"]["parameters"]:
        return False
    return encoding.note in NOTES and encoding.can_note(stored)


def _scale(stored: StoredWeight) -> Tensor:
    assert stored.weight_scale is not None, "a format with scales has them"
    return stored.weight_scale
