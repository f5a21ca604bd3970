"""Which LoRAs on a MODEL make it one for few steps, and the same MODEL without them.

Our own LoRA node notes its files on the MODEL. Of others the patches are all that a MODEL has:
their files are known from the workflow, or their scales tell.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from comfy.model_patcher import ModelPatcher
from comfy.weight_adapter import LoRAAdapter
from torch import Tensor

from ....wan_model.lora import LoraFile, Names
from ....wan_model.presets import Alpha, Distilled, recognise
from .load_models import CHECKPOINT
from .lora_report import fits, from_file
from .low_rank import PREFIX, as_lora, quantized_layer
from .saving import SavingPatcher

LORAS = "wanduet_loras"
"""Attachment of a patcher: the files that our LoRA node has put on it, in order."""

BY_NUMBERS = "A LoRA"

OF_BIAS = {"diff_b", "b_norm"}
LEAVES = {"down", "diff", "w_norm"} | OF_BIAS
"""Of a file's modules, what its patches are known by."""
VALUES = 16
"""Values that are compared."""


@dataclass(frozen=True)
class AppliedFile:
    """A LoRA file that our node has put on a MODEL."""

    distilled: Distilled | None
    strength: float
    patches: Mapping[str, Sequence[Any]]
    """By official name of the tensor."""

    @property
    def for_few_steps(self) -> bool:
        """Whether it makes the model one for few steps."""
        return self.distilled is not None and self.strength > 0


def note_file(patcher: ModelPatcher, applied: AppliedFile) -> None:
    """Notes a file on the clone that it was put on."""
    patcher.set_attachments(LORAS, (*_files(patcher), applied))


def _files(patcher: ModelPatcher) -> tuple[AppliedFile, ...]:
    return patcher.get_attachment(LORAS) or ()


def _patches_in(files: Sequence[AppliedFile]) -> set[int]:
    """Returns what the patches of files are known by on a MODEL."""
    return {id(patch) for file in files for patches in file.patches.values() for patch in patches}


def distilled_on(patcher: ModelPatcher, named: Sequence[Distilled]) -> list[Distilled]:
    """Returns what makes a MODEL one for few steps: its own file, and LoRAs.

    Args:
        patcher: the MODEL.
        named: what other nodes of the workflow load for it.
    """
    info = patcher.get_attachment(CHECKPOINT)
    found = [info.distilled] if info is not None and info.distilled else []
    found += [file.distilled for file in _files(patcher) if file.for_few_steps and file.distilled]
    foreign = _foreign(patcher)
    if named and foreign:
        found += named
    elif foreign and (numbers := _by_numbers(foreign)) is not None:
        found.append(numbers)
    return found


def patches_of(patcher: ModelPatcher, file: LoraFile) -> list[Any]:
    """Returns the patches that another node has put on a MODEL from a file.

    The first values of what they hold are compared: those of trained matrices are the same nowhere
    else. Zeros alone are, so a patch of these counts only behind others.

    Raises:
        CheckpointError: if the file was cut off.
    """
    signs = {
        _sign(module.peek(leaf))
        for module in file.modules
        for leaf in LEAVES & module.tensors.keys()
    }
    parts = [(entry, _part(entry[1])) for entry in _foreign(patcher)]
    signed = [(entry, _sign(part)) for entry, part in parts if part is not None]
    found = [(entry, any(sign[1:])) for entry, sign in signed if sign in signs]
    trained = [entry for entry, has_values in found if has_values]
    return trained and [*trained, *(entry for entry, has_values in found if not has_values)]


def _part(what: Any) -> Tensor | None:
    """Returns what a patch is known by: what one of `LEAVES` is in a file."""
    if isinstance(what, LoRAAdapter):
        return what.weights[1]
    if isinstance(what, tuple) and len(what) > 1 and what[0] == "diff":
        return what[1][0]
    return None


def _sign(part: Tensor) -> tuple[Any, ...]:
    """Returns a tensor's shape and first values, from one on that is not 0 if there is one."""
    flat = part.flatten()
    if flat.numel() and not flat[:VALUES].any():
        flat = flat[int(flat.ne(0).int().argmax()) :]
    return (tuple(part.shape), *flat[:VALUES].float().tolist())


def _all_found(patcher: ModelPatcher, file: LoraFile, found: Sequence[Any]) -> bool:
    """Whether a file has no more patches on a MODEL, such as those of another kind of LoRA.

    Args:
        patcher: the MODEL.
        file: what a node of others has put on it.
        found: of its patches, see `patches_of`.
    """
    known = {id(entry[1]) for entry in found}
    foreign = {id(entry[1]) for entry in _foreign(patcher)}
    there = {
        key.removeprefix(PREFIX): foreign & {id(entry[1]) for entry in entries}
        for key, entries in patcher.patches.items()
    }
    names = Names(there)
    changed: set[str] = set()
    for module in file.modules:
        official, leaves = names.official(module.name), module.tensors.keys()
        if leaves - OF_BIAS:
            changed |= {str(official), f"{official}.weight"}
        if leaves & OF_BIAS:
            changed.add(f"{official}.bias")
    return all(there[name] & known for name in changed & there.keys() if there[name])


def is_distilled_itself(patcher: ModelPatcher) -> bool:
    """Whether a MODEL's own file is made for few steps, so that no LoRA can be taken off."""
    info = patcher.get_attachment(CHECKPOINT)
    return info is not None and info.distilled is not None


def without_distilled(
    patcher: ModelPatcher, named: Sequence[int], others: bool, opened: Sequence[LoraFile] = ()
) -> ModelPatcher | None:
    """Returns a MODEL of the same weights without the LoRAs that make it one for few steps.

    Args:
        patcher: the MODEL; it is left as it is.
        named: of each such LoRA that other nodes of the workflow load, the most patches it makes.
        others: whether other nodes load further LoRAs, from which those are told by their files.
        opened: files of all that are named.

    Returns:
        A clone; None if they cannot be taken off.
    """
    files = [file for file in _files(patcher) if file.for_few_steps]
    gone = _patches_in(files)
    foreign = _foreign(patcher)
    known = [patches_of(patcher, file) for file in opened]
    whole = [_all_found(patcher, *each) for each in zip(opened, known, strict=True) if each[1]]
    if whole and len(whole) == len(known) and all(whole):
        gone |= {id(entry[1]) for patches in known for entry in patches}
        if _by_numbers([entry for entry in foreign if id(entry[1]) not in gone]) is not None:
            return None  # one more, of a node that does not name its file
    elif foreign and (named or _by_numbers(foreign) is not None):
        too_many = _most_on_one(patcher, foreign) > len(named) or len(foreign) > sum(named)
        if others or (named and too_many):
            return None  # of a node that does not name its file
        if not all(from_file(entry[1]) for entry in foreign):
            return None
        gone |= {id(entry[1]) for entry in foreign}
    if not isinstance(patcher, SavingPatcher) and any(
        not name.endswith((".weight", ".bias")) for file in files for name in file.patches
    ):
        return None  # changed by object patches, of which nothing tells the parts
    clone = patcher.clone()
    if not gone:
        return clone
    dit = patcher.model.diffusion_model
    patches = {
        key: [_off(entry, key, dit) if id(entry[1]) in gone else entry for entry in entries]
        for key, entries in patcher.patches.items()
    }
    kept = {key: [entry for entry in entries if entry] for key, entries in patches.items()}
    clone.patches = {key: entries for key, entries in kept.items() if entries}
    clone.patches_uuid = uuid4()
    return clone


def _off(entry: Any, key: str, dit: Any) -> Any:
    """Returns a patch without effect, or None.

    Beside a quantized weight of ours only a scale changes, so it stays there and nothing is moved.
    """
    layer = quantized_layer(dit, key) if key.startswith(PREFIX) else None
    if layer is None or as_lora(entry, layer) is None:
        return None
    return (0.0, *entry[1:])


def _foreign(patcher: ModelPatcher) -> list[Any]:
    """Returns the patches that are not of our LoRA node.

    ComfyUI keeps those of another size than their weight, which have no effect: they do not count.
    """
    ours = _patches_in(_files(patcher))
    dit = patcher.model.diffusion_model
    return [
        entry
        for key, entries in patcher.patches.items()
        for entry in entries
        if id(entry[1]) not in ours and (entry[3] is not None or fits(dit, key, entry[1]))
    ]


def _most_on_one(patcher: ModelPatcher, entries: Sequence[Any]) -> int:
    """Returns the largest number of these patches on one weight: no fewer files they are of."""
    wanted = {id(entry) for entry in entries}
    return max(sum(id(one) in wanted for one in patches) for patches in patcher.patches.values())


def _by_numbers(entries: Sequence[Any]) -> Distilled | None:
    """Tells LoRAs by how their scales were stored: whole numbers stay whole in ComfyUI."""
    adapters = [entry for entry in entries if isinstance(entry[1], LoRAAdapter) and entry[0] > 0]
    scales = [(entry[1].weights[1].shape[0], entry[1].weights[2]) for entry in adapters]
    whole = [Alpha(rank, alpha, "I64") for rank, alpha in scales if isinstance(alpha, int)]
    if not whole or len(whole) < len(adapters):
        return None
    return recognise(BY_NUMBERS, "lora", alphas=whole)
