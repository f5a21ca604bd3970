"""The transformer against tensors made with the official code, stage by stage."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.parity.recipe import GOLDEN, fill, golden, value
from wan_model.attention import resolve
from wan_model.config import DiTConfig, Precision
from wan_model.dit import WanDiT
from wan_model.dit.rope import rotate, rotation
from wan_model.dit.timesteps import sinusoid

ATOL = 3e-5
SMALL = DiTConfig(
    dim=256,
    ffn_dim=512,
    num_heads=2,
    num_layers=3,
    in_channels=16,
    out_channels=16,
    text_dim=64,
)
CONFIGS = {
    "t2v": SMALL,
    "i2v": replace(SMALL, in_channels=36),
    "ti2v": replace(SMALL, dim=384, num_heads=3, in_channels=48, out_channels=48),
}
TOKENS_PER_FRAME, FRAMES = 24, 3


def make_dit(kind: str, precision: Precision | None = None) -> WanDiT:
    model = WanDiT(CONFIGS[kind], precision=precision or Precision(), attention=resolve("sdpa"))
    fill(model)
    return model


def make_inputs(kind: str) -> dict[str, torch.Tensor | None]:
    config = CONFIGS[kind]
    cond = value("y", (1, config.cond_channels, 3, 8, 12)) if config.cond_channels else None
    timestep = torch.full((1, FRAMES * TOKENS_PER_FRAME), 637.0)
    if kind == "ti2v":
        timestep[:, :TOKENS_PER_FRAME] = 0
    return {
        "latent": value("x", (1, config.out_channels, 3, 8, 12)),
        "timestep": timestep,
        "text": value("ctx", (1, 17, 64)),
        "cond": cond,
    }


def record_stages(model: WanDiT, inputs: dict) -> dict[str, torch.Tensor]:
    """Runs the model and returns the stages that the golden file holds."""
    stages: dict[str, torch.Tensor] = {}

    def keep(name):
        def hook(_module, _args, output):
            stages[name] = output.clone()

        return hook

    model.patch_embedding.register_forward_hook(keep("patch"))
    model.blocks[0].self_attn.o.register_forward_hook(keep("block0.self_attn"))
    model.blocks[0].cross_attn.o.register_forward_hook(keep("block0.cross_attn"))
    for i, block in enumerate(model.blocks):
        block.register_forward_hook(keep(f"block{i}"))
    with torch.no_grad():
        stages["out"] = model(**inputs)
        stages["text"] = model.embed_text(inputs["text"])
        time = model.embed_time(inputs["timestep"], (3, 4, 6))
    stages["e"] = time.head.rows[time.head.index][:, :, 0]
    stages["e0"] = time.blocks.rows[time.blocks.index].flatten(2)
    return stages


def as_stored(name: str, stage: torch.Tensor) -> torch.Tensor:
    """Brings a stage into the layout of the golden file."""
    if name == "out":
        return stage[0]
    if name == "patch":
        return stage.transpose(1, 2).unflatten(2, (3, 4, 6))
    if name in ("e", "e0"):
        return stage[:, [0, -1]]
    if name == "text":
        return stage[:, [0, 16, 17, 511]]
    return stage


STAGES = ["patch", "e", "e0", "text", "block0.self_attn", "block0.cross_attn"]
STAGES += ["block0", "block1", "block2", "out"]


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_stage_equals_the_official_code(kind):
    stages = record_stages(make_dit(kind), make_inputs(kind))
    reference = golden()
    for name in STAGES:
        expected = torch.from_numpy(np.array(reference[f"{kind}.{name}"]))
        got = as_stored(name, stages[name])
        assert got.shape == expected.shape, name
        torch.testing.assert_close(
            got, expected, rtol=1e-5, atol=ATOL, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("kind", CONFIGS)
def test_parameter_names_and_shapes_are_official(kind):
    # The key files list the released models; names repeat per block and shapes scale with dim.
    config = CONFIGS[kind]
    official = json.loads((GOLDEN / f"dit_keys_{kind}.json").read_text())
    blocks = {key.split(".")[1] for key in official if key.startswith("blocks.")}
    expected = {k for k in official if not k.startswith("blocks.") or int(k.split(".")[1]) < 3}
    with torch.device("meta"):
        model = WanDiT(config, precision=Precision(), attention=resolve("sdpa"))
    got = model.state_dict()
    assert len(blocks) in (30, 40)
    assert set(got) == expected
    assert got["patch_embedding.weight"].shape == (config.dim, config.in_channels, 1, 2, 2)
    for key in expected:
        assert got[key].ndim == len(official[key]), key


def test_rotation_equals_the_official_code():
    got = rotate(value("q", (1, 24, 2, 128)), rotation((2, 3, 4), 128, torch.device("cpu")))
    expected = torch.from_numpy(golden()["rope.q_out"])
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


def test_sinusoid_equals_float64():
    with np.load(GOLDEN / "sinusoid_f64.npz") as data:
        timestep, expected = torch.from_numpy(data["t"]), torch.from_numpy(data["emb"]).float()
    torch.testing.assert_close(sinusoid(timestep, 256), expected, rtol=0, atol=1e-7)


def test_bf16_error_stays_near_the_official_code_s():
    inputs = make_inputs("t2v")
    with torch.no_grad():
        exact = make_dit("t2v")(**inputs)
        errors = {}
        for residual in (torch.float32, torch.bfloat16):
            precision = Precision(compute_dtype=torch.bfloat16, residual_dtype=residual)
            got = make_dit("t2v", precision)(**inputs)
            errors[residual] = ((got - exact).square().mean() / exact.square().mean()).sqrt().item()
    assert errors[torch.float32] <= 5e-3
    assert errors[torch.float32] < errors[torch.bfloat16] <= 1.5e-2
