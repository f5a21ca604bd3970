"""LoRA files that a model has seen, as patches that stay the same objects for every strength.

By that the weights engine knows that nothing has to be moved.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ....wan_model.loading import Expert
from ....wan_model.lora import LoraModules, Translated, open_lora
from ....wan_model.presets import Distilled
from .file_change import as_patch

CAPACITY = 24
"""Files that are remembered; they lie in the system's file cache, not in memory."""


@dataclass(frozen=True)
class FilePatches:
    """A file for one model."""

    translated: Translated
    patches: Mapping[str, list[Any]]
    """By official name of the tensor, to be applied in order."""
    of_both_experts: bool
    distilled: Distilled | None
    """What it makes a model that it is put on, if that is one for few steps."""


class LoraShelf:
    """The files that were used last."""

    def __init__(self) -> None:
        self._files: dict[tuple[Path, int, int, Expert], FilePatches] = {}

    def get(self, path: Path, dit: nn.Module, expert: Expert) -> FilePatches:
        """Opens a file, or returns what it was opened as if it is the same still.

        Args:
            path: of the file.
            dit: the transformer, always the same one.
            expert: whose part is wanted of a file of both.

        Raises:
            CheckpointError: if it is no LoRA for this model.
        """
        status = path.stat()
        key = (path, status.st_size, status.st_mtime_ns, expert)
        found = self._files.pop(key, None) or _opened(path, dit, expert)
        self._files[key] = found
        while len(self._files) > CAPACITY:
            del self._files[next(iter(self._files))]
        return found


def _opened(path: Path, dit: nn.Module, expert: Expert) -> FilePatches:
    modules, shapes = LoraModules(open_lora(path)), weight_shapes(dit)
    translated = modules.translate(shapes, expert)
    patches = {
        name: [as_patch(change, shapes[name]) for change in changes]
        for name, changes in translated.changes.items()
    }
    file = modules.file
    return FilePatches(translated, patches, file.of_both_experts, file.distilled)


def weight_shapes(dit: nn.Module) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a transformer's tensors by name, of quantized weights unpacked."""
    shapes = {name: tuple(tensor.shape) for name, tensor in dit.state_dict().items()}
    for path, layer in dit.named_modules():
        sides = (getattr(layer, "out_features", None), getattr(layer, "in_features", None))
        if f"{path}.weight" in shapes and None not in sides:
            shapes[f"{path}.weight"] = sides  # pyright: ignore[reportArgumentType]
    return shapes
