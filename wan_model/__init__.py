"""Wan2.2 in pure PyTorch: transformer, VAEs, loading and sampling. Knows nothing of ComfyUI.

The names below are what the README describes: `load_dit`, `load_vae`, `detect`, `make_sigmas`,
`expert_split` and `solve`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .loading import CheckpointInfo, detect, load_dit, load_vae
    from .sampling import expert_split, make_sigmas, solve

_HOME = {
    "CheckpointInfo": "loading",
    "detect": "loading",
    "load_dit": "loading",
    "load_vae": "loading",
    "expert_split": "sampling",
    "make_sigmas": "sampling",
    "solve": "sampling",
}

__all__ = [
    "CheckpointInfo",
    "detect",
    "expert_split",
    "load_dit",
    "load_vae",
    "make_sigmas",
    "solve",
]


def __getattr__(name: str) -> Any:
    """Imports the public names when they are first used, so that `import wan_model` is quick."""
    if name not in _HOME:
        raise AttributeError(f"module 'wan_model' has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
