"""Our MODEL with its LoRAs as a file for others, in one format for all blocks."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.model_management
import folder_paths
import torch
from comfy import quant_ops

from ....wan_model.errors import SettingsError
from ....wan_model.loading.entries import is_block_matrix
from ....wan_model.quant import PARTS, PLAIN, Linear, StoredWeight
from ....wan_model.unreadable import is_shortage
from ....wan_model.writing.export import ExportFormat, NamedWeight, export_checkpoint, find_export
from ..host import runtime
from .comfy_dit import ComfyWanDiT
from .dense_patches import with_patches
from .facts import CHECKPOINT
from .low_rank import PREFIX, Patches
from .patcher import WanPatcher

MERGE_BYTES = 1 << 30
"""What merging into the largest weight of A14B takes of the device, in fp32."""


def export_model(model: Any, prefix: str, format_name: str) -> tuple[Path, str]:
    """Writes a MODEL's transformer with its LoRAs into ComfyUI's output folder.

    Args:
        model: a MODEL of our loaders. It is left as it is; weights that ComfyUI has moved or
            merged go back to where they were.
        prefix: of the file's name, with folders; a number follows that no file has yet.
        format_name: of `find_export`.

    Returns:
        the file, and a remark on it; empty if there is none.

    Raises:
        SettingsError: for a MODEL of other loaders, a format that does not suit it, or if the file
            cannot be written.
        CheckpointError: if the file that the MODEL lies in was written to.
    """
    target = find_export(format_name)
    dit = getattr(model.model, "diffusion_model", None)
    if not isinstance(dit, ComfyWanDiT):
        raise SettingsError(
            f"This MODEL cannot be saved here. Got {type(dit).__name__} of another loader, need "
            "one of 'Wan 2.2 Load Model' or 'Wan 2.2 Load 14B Experts'. Use ComfyUI's ModelSave "
            "for it."
        )
    if not isinstance(model, WanPatcher):
        # Weights in place may have LoRAs of this or of another clone merged in.
        comfy.model_management.unload_all_models()
    device = model.load_device
    comfy.model_management.free_memory(MERGE_BYTES, device)
    file = _free_name(model, prefix, target)
    bar = None

    def on_tensor(done: int, total: int) -> None:
        nonlocal bar
        runtime.raise_if_interrupted()
        bar = bar or runtime.progress_bar(total)
        bar.update_absolute(done + 1, total)

    outline, weights = _weights(dit, model.patches, None), _weights(dit, model.patches, device)
    try:
        export_checkpoint(file, outline, weights, target, on_tensor)
    except OSError as error:
        dit.check_files()  # what could not be read is no matter of the target's folder
        if is_shortage(error):
            raise  # nor is this
        raise SettingsError(
            f"The model cannot be saved as {file.name}. Got: {error}; need a folder that can be "
            "written to, with room for the whole file. Free some disk space, or choose a smaller "
            "format."
        ) from error
    return file, _remark(model, target)


def _free_name(model: Any, prefix: str, target: ExportFormat) -> Path:
    """Returns a file that does not exist. Its name tells the expert, since loaders read it."""
    info = model.get_attachment(CHECKPOINT)
    expert = f"_{info.expert}_noise" if info is not None and info.expert else ""
    wanted = f"{prefix}{expert}_{target.name.replace(' ', '_')}"
    output = folder_paths.get_output_directory()
    folder, name, counter, *_ = folder_paths.get_save_image_path(wanted, output)
    while (Path(folder) / f"{name}_{counter:05}_{target.suffix}").exists():
        counter += 1
    return Path(folder) / f"{name}_{counter:05}_{target.suffix}"


def _weights(
    dit: ComfyWanDiT, patches: Patches, device: torch.device | None
) -> Iterator[NamedWeight]:
    """Yields every tensor by name with its patches, one at a time; None for shapes alone."""
    layers = {path: part for path, part in dit.named_modules() if isinstance(part, Linear)}
    for name, tensor in dit.state_dict().items():
        dit.check_files()
        path, _, leaf = name.rpartition(".")
        layer = layers.get(path)
        if layer is not None and leaf in PARTS[1:]:
            continue
        if layer is not None and leaf == "weight":
            stored = layer.stored()
        else:
            stored = StoredWeight(PLAIN[tensor.dtype], tensor.detach())
        key = PREFIX + name
        yield name, _patched(stored, key, patches.get(key), device)


def _patched(
    stored: StoredWeight, key: str, patches: list[Any] | None, device: torch.device | None
) -> StoredWeight:
    exact = stored.format.is_quantized or is_block_matrix(key.removeprefix(PREFIX))
    wide = torch.float32 if exact else stored.weight.dtype
    if device is None:
        if not patches:
            return stored.to(torch.device("meta"))
        shape = stored.format.shape(tuple(stored.weight.shape))
        return StoredWeight(PLAIN[wide], torch.empty(shape, dtype=wide, device="meta"))
    stored = replace(stored, weight=stored.weight.detach()).to(device)
    if not patches:
        return stored
    weight = with_patches(stored.dequantize(torch.float32).clone(), key, patches)
    return StoredWeight(PLAIN[wide], weight.to(wide))


def _remark(model: Any, target: ExportFormat) -> str:
    """Says what the file has not, and who cannot read it."""
    lines = []
    if model.hook_patches:
        lines.append("LoRAs of hooks are not in the file: they belong to a prompt.")
    if target.is_gguf:
        lines.append("The pack ComfyUI-GGUF and this one read the file; ComfyUI itself does not.")
    known = quant_ops.QUANT_ALGOS if hasattr(quant_ops, "QUANT_ALGOS") else {}
    note = {"int8": "int8_tensorwise", "int8 convrot": "convrot_w4a4"}.get(target.name)
    if note is not None and note not in known:
        lines.append(
            "This ComfyUI is too old to read such files with its own loader; those of this pack do."
        )
    return "\n".join(lines)
