"""What becomes of a LoRA file on our MODEL, in one line at the node that loads it."""

from collections.abc import Collection, Mapping
from typing import Any

from comfy.weight_adapter import LoRAAdapter, WeightAdapterBase
from torch import Tensor, nn

from ..host import runtime
from .low_rank import PREFIX

OTHER_NODE = "; 'Wan 2.2 Load LoRA Pair' reads files of more trainers"
"""Advice: stock nodes look for some spellings of names only."""
OTHER_FILE = "; choose one made for it: 14B and 5B need their own"


def report(
    dit: nn.Module,
    patches: Mapping[Any, Any],
    taken: Collection[Any],
    *,
    only_trouble: bool = False,
) -> None:
    """Says how many weights a file changes, if these patches come from one.

    Args:
        dit: the transformer.
        patches: as a node gives them, by key; none at all is a file without a known name.
        taken: keys of weights that the model has.
        only_trouble: whether to be silent of a file of which all has an effect.
    """
    if not all(from_file(what) for what in patches.values()):
        return
    failed = sum(not fits(dit, key, patches[key]) for key in taken)
    matched, skipped = len(taken) - failed, len(patches) - len(taken)
    if only_trouble and matched == len(patches) > 0:
        return
    text = f"LoRA: {matched} matched, {skipped} skipped, {failed} failed"
    if failed:
        text += " (made for weights of another size)"
    if not matched:
        text += ". It has no effect on this model" + (OTHER_FILE if patches else OTHER_NODE)
    runtime.show(runtime.running_node(), f"{text}.")


def from_file(what: Any) -> bool:
    """Whether a patch is of a LoRA file; those of merged models are the weights themselves."""
    return isinstance(what, WeightAdapterBase) or (
        isinstance(what, tuple) and bool(what) and isinstance(what[0], str)
    )


def fits(dit: nn.Module, key: Any, what: Any) -> bool:
    """Whether a patch has the size of its weight, as far as that is known beforehand."""
    if not isinstance(key, str) or not key.startswith(PREFIX):
        return True
    if isinstance(what, LoRAAdapter):
        up, down, _, mid, _, reshape = what.weights
        if mid is not None or reshape is not None:
            return True
        given = up.flatten(1).shape[0] * down.flatten(1).shape[1]
    elif isinstance(what, tuple) and what[0] == "diff" and len(what[1]) == 1:
        given = what[1][0].numel()
    else:
        return True
    return given == (_numel(dit, key.removeprefix(PREFIX)) or given)


def _numel(dit: nn.Module, name: str) -> int | None:
    """Returns how many values a tensor of any loader's model has; None if that is not certain.

    Of quantized weights, of which a stored byte may hold two, the layer tells.
    """
    path, _, leaf = name.rpartition(".")
    layer = dit.get_submodule(path)
    sides = (getattr(layer, "out_features", None), getattr(layer, "in_features", None))
    if leaf == "weight" and isinstance(sides[0], int) and isinstance(sides[1], int):
        return sides[0] * sides[1]
    tensor = getattr(layer, leaf, None)
    if isinstance(tensor, Tensor) and tensor.is_floating_point():
        return tensor.numel()
    return None
