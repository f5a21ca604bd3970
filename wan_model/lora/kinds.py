"""From the tensors of one module of a LoRA file to what they do: one function for each kind."""

from collections.abc import Callable

from torch import Tensor

from ..loading.source import damaged, shown
from .changes import Addition, Change, Difference, Hadamard, Kronecker, LowRank
from .file import LoraModule
from .transforms import Decomposed, Gain, Generalised, InputRotation, Replacement, Rotation


def weight_changes(module: LoraModule) -> list[Change]:
    """Returns what a module does to its weight, in order.

    Raises:
        CheckpointError: if tensors are missing, or do not fit each other.
    """
    for leaf, other in HALVES.items():
        if leaf in module and other not in module:
            module[other]  # which says what is missing
    return [make(module) for leaf, make in KINDS.items() if leaf in module]


def bias_changes(module: LoraModule) -> list[Change]:
    """Returns what a module does to its bias."""
    found: list[Change] = [
        Difference(module[leaf]) for leaf in ("diff_b", "b_norm") if leaf in module
    ]
    if "up_bias" in module:
        found.append(Difference(module["up_bias"], module.scale(len(module["down"]))))
    if "ia3_l" in module and len(module["ia3_l"]) > 1:
        found.append(_peft_gain(module))  # which is on what the layer gives, bias included
    return found


def _low_rank(module: LoraModule) -> Change:
    down, up, mid = module["down"], module["up"], module.get("mid")
    matched = down.ndim >= 2 and up.ndim >= 2 and up.shape[1] == len(down)
    matched = matched and up[0, 0].numel() == 1
    if mid is not None:
        matched = matched and mid.shape[:2] == (len(down), len(down)) and down[0, 0].numel() == 1
    _require(matched, module, down, up)
    return _decomposed(module, LowRank(down, up, module.scale(len(down)), mid))


def _hadamard(module: LoraModule) -> Change:
    halves = tuple(
        (module[f"hada_w{n}_a"], module[f"hada_w{n}_b"], module.get(f"hada_t{n}")) for n in (1, 2)
    )
    one, other = halves
    for a, b, core in halves:
        _require(a.ndim == 2 and (b.ndim == 2 if core is not None else b.ndim >= 2), module, a, b)
        fits = len(b) == a.shape[1] if core is None else core.shape[:2] == (len(a), len(b))
        _require(fits, module, a, b)
    change = Hadamard((one, other), module.scale(len(one[1])))
    _require(change.shape == Hadamard((other, one), 1.0).shape, module, one[0], other[0])
    return _decomposed(module, change)


def _kronecker(module: LoraModule) -> Change:
    first, second = (_factors(module, f"lokr_w{n}") for n in (1, 2))
    core = module.get("lokr_t2")
    if core is None and len(second) == 2:
        _require(second[0].shape[1] == len(second[1]), module, *second)
    if core is not None:
        inner = tuple(map(len, second))
        matched = len(second) == 2 and second[1].ndim == 2 and core.shape[:2] == inner
        _require(matched, module, core, second[0])
    if len(first) == 2:
        _require(first[0].shape[1] == len(first[1]), module, *first)
    ranks = [len(factors[1]) for factors in (first, second) if len(factors) == 2]
    # LyCORIS has no rank, and so no scale, where both matrices are whole.
    scale = module.scale(ranks[-1]) if ranks else 1.0
    return _decomposed(module, Kronecker(first, second, scale, core))


def _factors(module: LoraModule, name: str) -> tuple[Tensor, ...]:
    whole = module.get(name)
    factors = (module[f"{name}_a"], module[f"{name}_b"]) if whole is None else (whole,)
    _require(all(factor.ndim >= 2 for factor in factors), module, *factors)
    _require(len(factors) == 1 or factors[0].ndim == 2, module, *factors)
    return factors


def _generalised(module: LoraModule) -> Change:
    a1, a2, b1, b2 = (module[leaf] for leaf in ("a1", "a2", "b1", "b2"))
    _require(all(tensor.ndim >= 2 for tensor in (a1, a2, b1, b2)), module, a1, b1)
    if not a1.shape[1] == len(a2) == b1.shape[1] == len(b2):
        a1, a2, b1, b2 = a2, a1, b2, b1  # LyCORIS has had the two the other way round
    _require(a1[0].numel() == len(a2) == b1[0].numel() == len(b2), module, a1, a2)
    return Generalised(a1, a2, b1, b2, module.scale(len(a2)))


def _rotation(module: LoraModule) -> Change:
    blocks = module["oft_blocks"]
    _require(blocks.ndim in (3, 4), module, blocks)
    return Rotation(blocks, module.number("alpha") or 0.0, module.get("rescale"))


def _input_rotation(module: LoraModule) -> Change:
    turn = module["input_turn"]
    _require(turn.ndim == 2 and InputRotation(turn).size is not None, module, turn)
    return InputRotation(turn)


def _lycoris_gain(module: LoraModule) -> Change:
    return Gain(1 + module["weight"].float(), on_input=bool(module.number("on_input")))


def _peft_gain(module: LoraModule) -> Change:
    gain = module["ia3_l"]
    return Gain(gain, on_input=len(gain) == 1)


def _difference(leaf: str) -> Callable[[LoraModule], Change]:
    return lambda module: Difference(module[leaf])


KINDS: dict[str, Callable[[LoraModule], Change]] = {
    "set_weight": lambda module: Replacement(module["set_weight"]),
    "down": _low_rank,
    "hada_w1_a": _hadamard,
    "lokr_w1": _kronecker,
    "lokr_w1_a": _kronecker,
    "a1": _generalised,
    "oft_blocks": _rotation,
    "input_turn": _input_rotation,
    "on_input": _lycoris_gain,
    "ia3_l": _peft_gain,
    "diff": _difference("diff"),
    "diff_m": _difference("diff_m"),
    "w_norm": _difference("w_norm"),
}
"""By the leaf that tells a kind."""

HALVES = {"up": "down", "hada_w1_b": "hada_w1_a", "lokr_w1_b": "lokr_w1_a", "b1": "a1"}
"""Leaves that mean nothing without another."""


def _decomposed(module: LoraModule, addition: Addition) -> Change:
    magnitude = module.get("magnitude")
    return addition if magnitude is None else Decomposed(addition, magnitude)


def _require(matched: bool, module: LoraModule, *tensors: Tensor) -> None:
    if not matched:
        got = " and ".join("x".join(map(str, tensor.shape)) for tensor in tensors)
        what = f"The tensors of {shown(module.name)} do not fit each other"
        raise damaged(module.file, what, got, "one rank")
