"""*Wan 2.2 NAG* on MODELs of ours and of core, beside the formula written by others."""

import pytest

from .graphs import Prompt, node, random_text, save
from .server import ComfyServer
from .stock import (
    ROUNDING,
    T2V_HIGH,
    T2V_LOW,
    difference,
    empty_latent,
    ksampler,
    loaders,
    relative,
    run_to_tensors,
)
from .test_other_nodes_patches import EFFECT, SIZES, patched, streamed

pytestmark = pytest.mark.comfy

TEXT = {"unwanted": node("WanDuetTestConditioning", seed=3, tokens=512, text_dim=4096)}
"""What the formula of the tests keeps away from, too."""


def nag(high: str, low: str = "", **options: float) -> dict[str, object]:
    values = {"nag_scale": 11.0, "nag_alpha": 0.25, "nag_tau": 2.5, **options}
    models = {"model_high": (high, 0), **({"model_low": (low, 0)} if low else {})}
    return node("WanDuetNAG", negative=("unwanted", 0), **models, **values)


def test_one_formula_for_both_models(comfy_server: ComfyServer):
    """Also with guidance, where samples of the negative prompt are in the batch, and overrides."""
    prompt: Prompt = {**empty_latent(**SIZES), **TEXT}
    for who, nodes in loaders(T2V_HIGH).items():
        prompt |= nodes | {f"{who}_nag": nag(who), f"{who}_off": nag(who, nag_alpha=0.0)}
        prompt |= patched(f"{who}_nag", f"{who}_both", "override_attention")
        prompt |= patched(who, f"{who}_formula", "guide_text")
        for name in ("nag", "off", "both", "formula"):
            prompt |= ksampler((f"{who}_{name}", 0), f"{who}_{name}_out", steps=2)
        for name, source in (("cfg", "nag"), ("cfg_formula", "formula")):
            prompt |= ksampler((f"{who}_{source}", 0), f"{who}_{name}_out", steps=2, cfg=3.0)
        prompt |= ksampler((who, 0), f"{who}_plain_out", steps=2)
    names = [
        f"{who}_{name}"
        for who in ("ours", "stock")
        for name in ("nag", "off", "both", "formula", "cfg", "cfg_formula", "plain")
    ]
    saved = run_to_tensors(comfy_server, prompt, {name: (f"{name}_out", 0) for name in names})
    for name in ("nag", "both", "formula", "cfg", "cfg_formula"):
        assert relative(saved[f"ours_{name}"], saved[f"stock_{name}"]) <= ROUNDING
    for who in ("ours", "stock"):
        assert relative(saved[f"{who}_nag"], saved[f"{who}_formula"]) <= ROUNDING
        assert relative(saved[f"{who}_cfg"], saved[f"{who}_cfg_formula"]) <= ROUNDING
        assert relative(saved[f"{who}_off"], saved[f"{who}_plain"]) <= ROUNDING
        assert difference(saved[f"{who}_nag"], saved[f"{who}_plain"]) > EFFECT
    assert difference(saved["ours_both"], saved["ours_nag"]) > EFFECT


def test_streamed_experts_with_loras(comfy_server: ComfyServer):
    prompt: Prompt = {**empty_latent(**SIZES), **TEXT}
    for who in ("ours", "stock"):
        for expert, file in (("high", T2V_HIGH), ("low", T2V_LOW)):
            prompt |= streamed(file, f"{who}_{expert}")
        prompt[f"{who}_nag"] = nag(f"{who}_high", f"{who}_low")
        for output, expert in enumerate(("high", "low")):
            sampled = ksampler((f"{who}_nag", output), f"{who}_{expert}_out", steps=2)
            prompt |= sampled
    names = [f"{who}_{expert}" for who in ("ours", "stock") for expert in ("high", "low")]
    saved = run_to_tensors(comfy_server, prompt, {name: (f"{name}_out", 0) for name in names})
    for expert in ("high", "low"):
        assert relative(saved[f"ours_{expert}"], saved[f"stock_{expert}"]) <= ROUNDING


def test_what_cannot_be_guided_says_so(comfy_server: ComfyServer):
    prompt: Prompt = {**random_text(), **TEXT, **loaders(T2V_HIGH)["stock"]}
    prompt |= patched("stock", "taken", "guide_text")
    prompt |= empty_latent(**SIZES) | {"nag": nag("taken")} | ksampler(("nag", 0), "out", steps=1)
    result = comfy_server.run({**prompt, **save("taken", latent=("out", 0))})
    assert "Another node has taken the place" in (result.error or {})["exception_message"]
