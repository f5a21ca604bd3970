"""Whether a LoRA file can have an effect on a model, by its header and the model's sizes alone."""

from ..config import DiTConfig
from .file import LoraFile
from .translate import LoraModules, Shapes


def is_foreign(file: LoraFile, config: DiTConfig) -> bool:
    """Tells whether a file is certainly for a model of other widths, so that it changes nothing.

    That is so where none of what it holds for matrices of blocks has the size of its matrix.

    Raises:
        CheckpointError: if the file is damaged.
        ShortageError: if there is no file handle to read single numbers.
    """
    found = LoraModules(file.outline()).found(_matrices(config), None)
    return bool(found.misfits) and not found.changes


def _matrices(config: DiTConfig) -> Shapes:
    """Returns the shapes of the blocks' matrices, which every LoRA has some of."""
    dim, wide = config.dim, config.ffn_dim
    sizes = {f"{part}_attn.{leaf}": (dim, dim) for part in ("self", "cross") for leaf in "qkvo"}
    sizes |= {"ffn.0": (wide, dim), "ffn.2": (dim, wide)}
    return {
        f"blocks.{number}.{matrix}.weight": shape
        for number in range(config.num_layers)
        for matrix, shape in sizes.items()
    }
