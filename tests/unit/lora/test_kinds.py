"""What each kind of LoRA does to a weight, against formulas in fp64.

The formulas are independent of the code; they were compared with PEFT 0.21's merge and the forward
passes of LyCORIS 4.1 once (not its `merge_to`, which scales LoKr and LoHa twice). Both import too
slowly to be asked in every run.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from wan_model.errors import CheckpointError
from wan_model.lora import Addition

from .files import DIM, FFN, RANK, changed, randn, translated, weight

NAME = "blocks.0.ffn.0"
"""FFN outputs, DIM inputs."""
CONV = "patch_embedding"
State = dict[str, Tensor]
Formula = Callable[[Tensor], Tensor]


def double(state: State) -> State:
    return {leaf: tensor.double() for leaf, tensor in state.items()}


def lora(**more: Tensor) -> State:
    return {"lora_down.weight": randn(RANK, DIM), "lora_up.weight": randn(FFN, RANK), **more}


def product(state: State) -> Tensor:
    state = double(state)
    return state["lora_up.weight"] @ state["lora_down.weight"]


def normed(weight: Tensor, magnitude: Tensor, axis: int) -> Tensor:
    """DoRA's last step: unit rows (1) or columns (0) times magnitudes."""
    return weight / weight.pow(2).sum(axis, keepdim=True).sqrt() * magnitude.double()


def hadamard() -> State:
    shapes = {"w1_a": (FFN, RANK), "w1_b": (RANK, DIM), "w2_a": (FFN, RANK), "w2_b": (RANK, DIM)}
    return {f"hada_{name}": randn(*shape, seed=ord(name[1])) for name, shape in shapes.items()}


def times(state: State) -> Tensor:
    s = double(state)
    return (s["hada_w1_a"] @ s["hada_w1_b"]) * (s["hada_w2_a"] @ s["hada_w2_b"])


WHOLE = {"lokr_w1": randn(4, 2), "lokr_w2": randn(4, 4)}
HALF = {"lokr_w1": randn(4, 2), "lokr_w2_a": randn(4, 1), "lokr_w2_b": randn(1, 4)}
FACTORS = {
    "lokr_w1_a": randn(4, 1),
    "lokr_w1_b": randn(1, 2),
    "lokr_w2_a": randn(4, 1),
    "lokr_w2_b": randn(1, 4),
}


def kron(state: State) -> Tensor:
    s = double(state)
    first = s["lokr_w1"] if "lokr_w1" in s else s["lokr_w1_a"] @ s["lokr_w1_b"]
    second = s["lokr_w2"] if "lokr_w2" in s else s["lokr_w2_a"] @ s["lokr_w2_b"]
    return torch.kron(first, second)


def cayley(block: Tensor, limit: float = 0.0, of: Tensor | None = None) -> Tensor:
    """The orthogonal matrix of a block; `of` is what the limit is for."""
    of = block if of is None else of
    norm = (of.double() - of.double().transpose(-1, -2)).norm()
    skew = (block.double() - block.double().T) * (limit / norm if 0 < limit < norm else 1.0)
    identity = torch.eye(len(block), dtype=torch.float64)
    return (identity + skew) @ torch.linalg.inv(identity - skew)


def turned(w: Tensor, blocks: Tensor, limit: float = 0.0) -> Tensor:
    return torch.block_diag(*(cayley(b, limit, blocks) for b in blocks)).T @ w


def butterfly(w: Tensor, blocks: Tensor) -> Tensor:
    """BOFT, row by row: stage i turns rows that lie 2^i half blocks apart."""
    for stage, blocks_of_stage in enumerate(blocks):
        size = blocks.shape[-1]
        stride = 2**stage * size // 2
        rows = [
            base + offset + half * stride
            for base in range(0, len(w), 2 * stride)
            for offset in range(stride)
            for half in range(2)
        ]
        result = torch.empty_like(w)
        for number, block in enumerate(blocks_of_stage):
            own = rows[number * size : (number + 1) * size]
            result[own] = cayley(block) @ w[own]
        w = result
    return w


GLORA = {
    "a1.weight": randn(DIM, RANK),
    "a2.weight": randn(RANK, DIM),
    "b1.weight": randn(FFN, RANK),
    "b2.weight": randn(RANK, DIM, seed=1),
}
OLD_GLORA = {
    "a2.weight": GLORA["a1.weight"],
    "a1.weight": GLORA["a2.weight"],
    "b2.weight": GLORA["b1.weight"],
    "b1.weight": GLORA["b2.weight"],
}


def glora(w: Tensor, scale: float = 1.0) -> Tensor:
    s = double(GLORA)
    return w + scale * (w @ s["a1.weight"] @ s["a2.weight"] + s["b1.weight"] @ s["b2.weight"])


ROWS, COLUMNS = randn(FFN, 1).abs() + 1, randn(1, DIM).abs() + 1
OFT = 0.3 * randn(4, 4, 4)
BOFT = 0.3 * randn(3, 4, 4, 4)
RESCALE = 1 + 0.1 * randn(FFN, 1)
GAIN = 0.3 * randn(FFN)

PEFT_OFT = 0.1 * randn(2, 6)


def input_turned(weight: Tensor, upper: Tensor) -> Tensor:
    """PEFT's forward pass with its default settings, on the identity: (x R) W^T."""
    turns = []
    for numbers in upper.double():
        skew = torch.zeros(4, 4, dtype=torch.float64)
        places = ((i, j) for i in range(4) for j in range(i + 1, 4))
        for (row, column), number in zip(places, numbers, strict=True):
            skew[row, column], skew[column, row] = number, -number
        powers = [torch.matrix_power(skew, n) for n in range(5)]
        turns.append(powers[0] + 2 * (powers[1] + powers[2] + powers[3]) + powers[4])
    turns *= DIM // 4 // len(turns)
    return (torch.block_diag(*turns) @ weight.T).T


CASES: dict[str, tuple[State, Formula]] = {
    "lora": (lora(), lambda w: w + product(lora())),
    "alpha": (lora(alpha=torch.tensor(3.0)), lambda w: w + 1.5 * product(lora())),
    "alpha int64": (lora(alpha=torch.tensor(3)), lambda w: w + 1.5 * product(lora())),
    "alpha bf16": (
        lora(alpha=torch.tensor([3.0], dtype=torch.bfloat16)),
        lambda w: w + 1.5 * product(lora()),
    ),
    "alpha fp8": (
        lora(alpha=torch.tensor(3.0).to(torch.float8_e4m3fn)),
        lambda w: w + 1.5 * product(lora()),
    ),
    "dora by output": (
        lora(alpha=torch.tensor(1.0), dora_scale=ROWS),
        lambda w: normed(w + 0.5 * product(lora()), ROWS, 1),
    ),
    "dora by input": (
        lora(dora_scale=COLUMNS),
        lambda w: normed(w + product(lora()), COLUMNS, 0),
    ),
    "dora of peft": (
        lora(lora_magnitude_vector=ROWS.flatten()),
        lambda w: normed(w + product(lora()), ROWS, 1),
    ),
    "loha": (hadamard(), lambda w: w + times(hadamard())),
    "loha alpha": (
        {**hadamard(), "alpha": torch.tensor(1.0)},
        lambda w: w + 0.5 * times(hadamard()),
    ),
    "doha": ({**hadamard(), "dora_scale": ROWS}, lambda w: normed(w + times(hadamard()), ROWS, 1)),
    "lokr whole": ({**WHOLE, "alpha": torch.tensor(9e9)}, lambda w: w + kron(WHOLE)),
    "lokr half": ({**HALF, "alpha": torch.tensor(3.0)}, lambda w: w + 3 * kron(HALF)),
    "lokr factors": (FACTORS, lambda w: w + kron(FACTORS)),
    "dokr": ({**WHOLE, "dora_scale": ROWS}, lambda w: normed(w + kron(WHOLE), ROWS, 1)),
    "dokr by input": (
        {**HALF, "dora_scale": COLUMNS},
        lambda w: normed(w + kron(HALF), COLUMNS, 0),
    ),
    "glora": (GLORA, glora),
    "glora alpha": ({**GLORA, "alpha": torch.tensor(1.0)}, lambda w: glora(w, 0.5)),
    "glora, older": (OLD_GLORA, glora),
    "oft": ({"oft_blocks": OFT}, lambda w: turned(w, OFT)),
    "oft rescaled": (
        {"oft_blocks": OFT, "rescale": RESCALE},
        lambda w: RESCALE.double() * turned(w, OFT),
    ),
    "oft limited": (
        {"oft_blocks": OFT, "alpha": torch.tensor(0.02)},
        lambda w: turned(w, OFT, float(torch.tensor(0.02)) * FFN),
    ),
    "oft of peft": ({"oft_R.weight": PEFT_OFT}, lambda w: input_turned(w, PEFT_OFT)),
    "oft of peft, one block": (
        {"oft_R.default.weight": PEFT_OFT[:1]},
        lambda w: input_turned(w, PEFT_OFT[:1]),
    ),
    "lora that names its weight's shape": (
        lora(reshape_weight=torch.tensor([FFN, DIM])),
        lambda w: w + product(lora()),
    ),
    "boft": ({"oft_blocks": BOFT}, lambda w: butterfly(w, BOFT)),
    "boft rescaled": (
        {"oft_blocks": BOFT, "rescale": RESCALE},
        lambda w: RESCALE.double() * butterfly(w, BOFT),
    ),
    "ia3": (
        {"weight": GAIN, "on_input": torch.tensor(0)},
        lambda w: w * (1 + GAIN.double())[:, None],
    ),
    "ia3 on input": (
        {"weight": GAIN[:DIM], "on_input": torch.tensor(1)},
        lambda w: w * (1 + GAIN[:DIM].double()),
    ),
    "ia3 of peft": ({"ia3_l": GAIN[:, None]}, lambda w: w * GAIN.double()[:, None]),
    "ia3 of peft on input": ({"ia3_l": COLUMNS}, lambda w: w * COLUMNS.double()),
    "set": ({"set_weight": randn(FFN, DIM)}, lambda _: randn(FFN, DIM).double()),
    "full": ({"diff": randn(FFN, DIM)}, lambda w: w + randn(FFN, DIM).double()),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("prefix", ["diffusion_model.", "lycoris_"])
def test_kinds(case: str, prefix: str, tmp_path: Path):
    state, formula = CASES[case]
    module = prefix + (NAME.replace(".", "_") if prefix == "lycoris_" else NAME)
    result = translated(tmp_path, {f"{module}.{leaf}": t for leaf, t in state.items()})
    assert result.unmatched == result.misfits == []
    name = f"{NAME}.weight"
    base, exact = weight(name), formula(weight(name))
    assert (exact - base).norm() > 0.05 * base.norm()
    error = (changed(result, name) - exact).norm() / (exact - base).norm()
    rounded = {"oft limited": 1e-8, "ia3": 1e-6, "ia3 on input": 1e-6}
    assert error < rounded.get(case, 1e-12)
    assert torch.equal(changed(result, name, 0.0), base)
    if not case.startswith("boft"):
        half = base + 0.5 * (exact - base)
        assert torch.allclose(changed(result, name, 0.5), half, rtol=1e-6)


def test_ia3_of_peft_scales_the_bias_as_well(tmp_path: Path):
    result = translated(tmp_path, {f"{NAME}.ia3_l": GAIN[:, None]})
    exact = weight(f"{NAME}.bias") * GAIN.double()
    assert torch.allclose(changed(result, f"{NAME}.bias"), exact)


def test_boft_turns_less_at_lower_strength(tmp_path: Path):
    result = translated(tmp_path, {f"{NAME}.oft_blocks": BOFT})
    identity = torch.eye(4, dtype=torch.float64)
    w = weight(f"{NAME}.weight")
    exact = w
    for stage in range(3):
        turns = torch.stack([0.5 * cayley(block) + 0.5 * identity for block in BOFT[stage]])
        stride = 2**stage * 2
        shuffled = exact.reshape(-1, 2, stride, DIM).transpose(1, 2).reshape(4, 4, DIM)
        exact = (turns @ shuffled).reshape(-1, stride, 2, DIM).transpose(1, 2).reshape(FFN, DIM)
    assert torch.allclose(changed(result, f"{NAME}.weight", 0.5), exact, rtol=1e-12)


def test_convolutions(tmp_path: Path):
    channels, kernel = 36, (1, 2, 2)
    base, name = weight(f"{CONV}.weight"), f"{CONV}.weight"
    down, up, mid = (
        randn(RANK, channels, 1, 1, 1),
        randn(DIM, RANK, 1, 1, 1),
        randn(RANK, RANK, *kernel),
    )
    tucker = torch.einsum(
        "mnabc, om, ni -> oiabc", *(t.double() for t in (mid, up.flatten(1), down.flatten(1)))
    )
    plain = randn(RANK, channels, *kernel)
    w1, w2 = randn(2, 3), randn(4, 12, *kernel)
    a, b, core = randn(RANK, 4), randn(RANK, 12), randn(RANK, RANK, *kernel, seed=3)
    cores = (core.double(), a.double(), b.double())
    second = torch.einsum("pqabc, po, qi -> oiabc", *cores).contiguous()
    grown = w1.double()[:, :, None, None, None]
    cases: list[tuple[State, Tensor]] = [
        (
            {"lora_down.weight": plain, "lora_up.weight": up},
            (up.flatten(1).double() @ plain.flatten(1).double()).reshape(base.shape),
        ),
        ({"lora_down.weight": down, "lora_up.weight": up, "lora_mid.weight": mid}, tucker),
        ({"lokr_w1": w1, "lokr_w2": w2}, torch.kron(grown, w2.double())),
        (
            {"lokr_w1": w1, "lokr_t2": core, "lokr_w2_a": a, "lokr_w2_b": b},
            torch.kron(grown, second),
        ),
    ]
    for state, delta in cases:
        result = translated(tmp_path, {f"{CONV}.{leaf}": tensor for leaf, tensor in state.items()})
        assert torch.allclose(changed(result, name), base + delta, rtol=1e-10, atol=1e-12)


def test_thin_matrices_are_the_same_change(tmp_path: Path):
    cases = (lora(alpha=torch.tensor(3.0)), hadamard(), HALF, FACTORS)
    for state in cases:
        result = translated(tmp_path, {f"{NAME}.{leaf}": t for leaf, t in state.items()})
        (change,) = result.changes[f"{NAME}.weight"]
        assert isinstance(change, Addition)
        pair = change.pair
        assert pair is not None
        delta = pair.scale * pair.up.double() @ pair.down.double()
        exact = changed(result, f"{NAME}.weight") - weight(f"{NAME}.weight")
        assert torch.allclose(delta, exact, rtol=1e-5, atol=1e-6)
        assert change.norm() == pytest.approx(float(exact.norm()), rel=1e-5)


def test_kronecker_products_are_kept_as_such(tmp_path: Path):
    for state in (WHOLE, HALF, FACTORS):
        result = translated(tmp_path, {f"{NAME}.{leaf}": t for leaf, t in state.items()})
        (change,) = result.changes[f"{NAME}.weight"]
        assert isinstance(change, Addition)
        assert change.factors is not None
        assert (change.pair is None) == (state is WHOLE)
        first, second, scale = change.factors
        exact = changed(result, f"{NAME}.weight") - weight(f"{NAME}.weight")
        delta = scale * torch.kron(first.double(), second.double())
        assert torch.allclose(delta, exact, rtol=1e-5, atol=1e-6)
        assert change.norm() == pytest.approx(float(exact.norm()), rel=1e-5)


def peft_header(**fields: object) -> str:
    return json.dumps({f"transformer.{name}": value for name, value in fields.items()})


@pytest.mark.parametrize(
    ("header", "scale"),
    [
        (peft_header(lora_alpha=8, r=RANK), 4.0),
        (peft_header(lora_alpha=8, r=RANK, use_rslora=True), 8 / RANK**0.5),
        (peft_header(lora_alpha=8, alpha_pattern={"ffn.net.0.proj": 2}), 1.0),
        (peft_header(lora_alpha=8, alpha_pattern={"net.0.pro": 2, "^blocks.0": 3}), 4.0),
        (peft_header(lora_alpha=8, alpha_pattern={"^blocks.0.ffn.net.0.proj": 2}), 1.0),
        (json.dumps({"lora_alpha": 8}), 4.0),
        (json.dumps({"transformer.lora_alpha": 8, "transformer_2.lora_alpha": 2}), 4.0),
        (json.dumps({}), 1.0),
    ],
)
def test_scales_in_the_header(header: str, scale: float, tmp_path: Path):
    module = "transformer.blocks.0.ffn.net.0.proj"
    tensors = {
        f"{module}.lora_A.weight": randn(RANK, DIM),
        f"{module}.lora_B.weight": randn(FFN, RANK),
    }
    tensors[f"{module}.lora_B.bias"] = randn(FFN)
    result = translated(tmp_path, tensors, lora_adapter_metadata=header)
    exact = weight(f"{NAME}.weight") + scale * product(lora())
    assert torch.allclose(changed(result, f"{NAME}.weight"), exact)
    bias = weight(f"{NAME}.bias") + scale * randn(FFN).double()
    assert torch.allclose(changed(result, f"{NAME}.bias"), bias)


def test_a_files_own_alpha_counts_more_than_its_header(tmp_path: Path):
    tensors = {f"{NAME}.{leaf}": t for leaf, t in lora(alpha=torch.tensor(1.0)).items()}
    result = translated(tmp_path, tensors, lora_adapter_metadata=json.dumps({"lora_alpha": 8}))
    exact = weight(f"{NAME}.weight") + 0.5 * product(lora())
    assert torch.allclose(changed(result, f"{NAME}.weight"), exact)


DAMAGED: dict[str, tuple[State, dict[str, str]]] = {
    "is not whole": ({"lora_down.weight": randn(RANK, DIM)}, {}),
    "is not whole. Got up": ({"lora_up.weight": randn(FFN, RANK)}, {}),
    "do not fit each other": ({**lora(), "lora_up.weight": randn(FFN, RANK + 1)}, {}),
    "not a number": (lora(alpha=torch.tensor(float("nan"))), {}),
    "one LoRA twice": (lora(**{"lora_A.weight": randn(RANK, DIM)}), {}),
    "cannot be read": (lora(), {"lora_adapter_metadata": "{"}),
    "is no object": (lora(), {"lora_adapter_metadata": "[]"}),
    "no usable alpha": (lora(), {"lora_adapter_metadata": '{"lora_alpha": "8"}'}),
    "no usable alpha. Got nan": (lora(), {"lora_adapter_metadata": '{"lora_alpha": NaN}'}),
    "no usable alpha. Got 1000": (
        lora(),
        {"lora_adapter_metadata": f'{{"lora_alpha": {10**400}}}'},
    ),
    "has no rows. Got down": ({**lora(), "lora_down.weight": randn(0, DIM)}, {}),
    "has no rows. Got up": ({**lora(), "lora_up.weight": randn(FFN, 0)}, {}),
    "has no rows. Got diff": ({"diff": torch.tensor(1.0)}, {}),
    "fit each other. Got 4x2x1 and 2x8": (
        {"lokr_w1": randn(4, 1), "lokr_w2_a": randn(4, 2, 1), "lokr_w2_b": randn(2, 8)},
        {},
    ),
    "fit each other. Got 16 and 2x8": (
        {f"hada_w{n}_{x}": randn(*s) for n in "12" for x, s in (("a", (16,)), ("b", (2, 8)))},
        {},
    ),
}


@pytest.mark.parametrize("message", DAMAGED)
def test_damaged_files(message: str, tmp_path: Path):
    state, metadata = DAMAGED[message]
    with pytest.raises(CheckpointError, match=message):
        translated(tmp_path, {f"{NAME}.{leaf}": t for leaf, t in state.items()}, **metadata)
