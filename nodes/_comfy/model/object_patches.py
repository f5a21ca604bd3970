"""A patcher that says which patches of other nodes our transformer cannot have."""

import logging
from typing import Any

import comfy.model_patcher

from ....wan_model.attention import try_again
from ....wan_model.errors import PairingError
from ..host import runtime
from .unknown_hooks import ROOT, unknown_object_patches

COMPILER = "torch.compile"
"""Key of the wrapper that ComfyUI's helper for compiling adds, for its own node and for others."""
ADVICE = "Remove the node that adds them, or load the model with 'Load Diffusion Model'."


class PatchablePatcher(comfy.model_patcher.ModelPatcher):
    """Speaks up where patches are added or put in place, and where a run begins."""

    _said_not_compiled = False
    """Of this clone: nodes clone once, and may compile block by block."""

    def add_wrapper_with_key(self, wrapper_type: str, key: Any, wrapper: Any) -> None:
        """Adds a function around a step of sampling, but none that compiles the model."""
        if key == COMPILER:
            self._say_not_compiled()
        else:
            super().add_wrapper_with_key(wrapper_type, key, wrapper)

    def add_object_patch(self, name: str, obj: Any) -> None:
        """Adds a patch, but none that is only the same part compiled."""
        if "_orig_mod" in getattr(obj, "_modules", ()):
            self._say_not_compiled()
        else:
            super().add_object_patch(name, obj)

    def patch_model(self, *args: Any, **kwargs: Any) -> Any:
        """Puts weights and patches in place.

        Raises:
            PairingError: if a patch is for a part that core's Wan model has and ours has not.
        """
        missing = [
            name for name in self.object_patches if name.startswith(ROOT) and not self._has(name)
        ]
        if missing:
            raise PairingError(
                f"Some patches do not fit this model. Got {', '.join(missing)}, need parts that "
                f"the model of 'Wan 2.2 Load Model' and 'Wan 2.2 Load 14B Experts' has. {ADVICE}"
            )
        return super().patch_model(*args, **kwargs)

    def pre_run(self) -> None:
        """Called when a run begins."""
        try_again(self.model.diffusion_model.attend, self.patches_uuid)
        unknown = unknown_object_patches(self.object_patches)
        if unknown:
            runtime.show(
                runtime.running_node(),
                f"Some patches may have no effect on this model. Got {', '.join(unknown)}, need "
                f"patches of what is inside of its blocks. {ADVICE}",
                level=logging.WARNING,
            )
        super().pre_run()

    def _has(self, name: str) -> bool:
        part = self.model
        for step in name.split("."):
            if not hasattr(part, step):
                return False
            part = getattr(part, step)
        return True

    def _say_not_compiled(self) -> None:
        """What patches and memory plans rest on would be compiled with it, or end in an error."""
        if self._said_not_compiled:
            return
        self._said_not_compiled = True
        runtime.show(
            runtime.running_node(),
            "Compiling has no effect on this model here. Remove this node: where compiling helps, "
            "'Wan 2.2 Torch Compile' does it.",
            level=logging.WARNING,
        )
