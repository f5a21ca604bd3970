"""LoRAs on quantized weights: what they are worth in fp32, wherever the weights are.

The reference is a file of the same weights, dequantized, into which ComfyUI merges the LoRA.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.toy.gguf_files import write_dit
from tests.toy.make_checkpoints import DIM, FFN_DIM
from wan_model.loading import load_dit
from wan_model.quant import Linear
from wan_model.writing import converted_file

from .devices import cpu_only
from .graphs import T2V, Prompt, memory, model, moe_sampler, node, random_text, save
from .server import ComfyServer
from .stock import LORA, empty_latent, latent

pytestmark = [pytest.mark.comfy, cpu_only]

LINKS = {"positive": ("positive", 0), "negative": ("negative", 0), "latent_image": ("latent", 0)}
FP8 = "toy_t2v_high_noise_scaled_fp8.safetensors"
NVFP4 = "toy4096_t2v_high_noise_nvfp4.safetensors"
MXFP8 = "toy4096_t2v_high_noise_mxfp8.safetensors"
INT8 = "int8.safetensors"
GGUF, EXACT_GGUF = "gguf.gguf", "exact_gguf.safetensors"
KINDS = "kinds.safetensors"
"""A LoRA file with DoRA, whole differences, and differences of biases beside plain LoRAs."""
E5M2 = "e5m2.safetensors"
BEYOND = "beyond.safetensors"
"""A whole difference that takes a weight far above the range of its format."""
ROOMY, TIGHT = 1024, 1
"""MiB of the emulated card: all fits, or only what ComfyUI cannot stream."""
PLACES: dict[str, tuple[int, dict[str, Any] | None]] = {
    "streamed by the engine": (ROOMY, {"blocks_to_swap": 2}),
    "kept by the engine": (ROOMY, {"blocks_to_swap": 0}),
    "loaded by ComfyUI": (ROOMY, None),
    "streamed by ComfyUI": (TIGHT, None),
}
FP32_ROUNDING = 2e-5


def dequantized(path: Path) -> dict[str, Tensor]:
    """Returns a checkpoint's weights in fp32."""
    dit = load_dit(path)
    state = {
        name: tensor.float().contiguous()
        for name, tensor in dit.state_dict().items()
        if "weight_scale" not in name
    }
    for name, layer in dit.named_modules():
        if isinstance(layer, Linear):
            state[f"{name}.weight"] = layer.stored().dequantize(torch.float32).contiguous()
    return state


def scaled_e5m2(path: Path) -> dict[str, Tensor]:
    """Returns a checkpoint with block weights in fp8 e5m2, one scale each."""
    state = load_file(path)
    for name in [n for n, t in state.items() if n.startswith("blocks.") and t.ndim == 2]:
        scale = state[name].float().abs().max() / torch.finfo(torch.float8_e5m2).max
        state[name] = (state[name].float() / scale).to(torch.float8_e5m2)
        state[f"{name.removesuffix('.weight')}.scale_weight"] = scale
    return {**state, "scaled_fp8": torch.zeros(2, dtype=torch.float8_e5m2)}


def kinds() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)

    def randn(*shape: int) -> Tensor:
        return 0.1 * torch.randn(shape, generator=generator)

    base = "diffusion_model.blocks.0."
    state = {
        f"{base}self_attn.q.lora_A.weight": randn(4, DIM),
        f"{base}self_attn.q.lora_B.weight": randn(DIM, 4),
        f"{base}self_attn.k.lora_A.weight": randn(4, DIM),
        f"{base}self_attn.k.lora_B.weight": randn(DIM, 4),
        f"{base}self_attn.k.dora_scale": 1 + randn(1, DIM).abs(),
        f"{base}self_attn.v.diff": randn(DIM, DIM),
        f"{base}self_attn.v.diff_b": randn(DIM),
    }
    halves = {
        f"{base}cross_attn.v.hada_w{n}_{part}": randn(*shape)
        for n in (1, 2)
        for part, shape in (("a", (DIM, 4)), ("b", (4, DIM)))
    }
    return state | {
        **halves,
        f"{base}ffn.0.lora_A.weight": randn(4, DIM),
        f"{base}ffn.0.lora_B.weight": randn(FFN_DIM, 4),
        f"{base}cross_attn.q.lokr_w1": randn(4, 4),
        f"{base}cross_attn.q.lokr_w2": randn(DIM // 4, DIM // 4),
        f"{base}cross_attn.o.lokr_w1": randn(4, 4),
        f"{base}cross_attn.o.lokr_w2_a": randn(DIM // 4, 2),
        f"{base}cross_attn.o.lokr_w2_b": randn(2, DIM // 4),
    }


@pytest.fixture(scope="module", autouse=True)
def files(card: ComfyServer, toy_models: Path) -> None:
    """Writes weights of every format for the server, and their dequantized form."""
    models = toy_models / "diffusion_models"
    made = card.base / "made"
    made.mkdir()
    folder = card.base / "models" / "diffusion_models"
    paths = [models / name for name in (FP8, NVFP4, MXFP8)]
    int8 = converted_file(models / T2V[0], "int8", made, device=torch.device("cpu"))
    (folder / INT8).symlink_to(int8.info.path)
    save_file(scaled_e5m2(models / T2V[0]), folder / E5M2)
    for path in (*paths, folder / INT8, folder / E5M2):
        save_file(dequantized(path), folder / f"exact_{path.name}")
    save_file(write_dit(folder / GGUF, load_file(models / T2V[0]), "Q4_1"), folder / EXACT_GGUF)


def sampled(
    server: ComfyServer,
    name: str,
    place: str,
    *strengths: float,
    lora: str = LORA,
    precision: str = "fp32",
) -> Tensor:
    """Samples two steps under LoRAs of some strengths."""
    mib, limits = PLACES[place]
    server.free()
    server.run({"card": node("WanDuetTestSetCard", nbytes=mib << 20)})
    options = {} if limits is None else {"memory": ("memory", 0)}
    text = random_text(4096 if "4096" in name else 64, 20)
    prompt: Prompt = {**text, **empty_latent(), **model(name, precision=precision, **options)}
    prompt |= {} if limits is None else memory(**limits)
    last = ("model", 0)
    for strength in strengths:
        about = {"lora_name": lora, "strength_model": strength}
        prompt[f"lora {strength}"] = node("LoraLoaderModelOnly", model=last, **about)
        last = (f"lora {strength}", 0)
    prompt |= moe_sampler(model_high=last, model_low=None, steps=2, **LINKS)
    result = server.run({**prompt, **save("loras", latent=("sampler", 0))})
    assert result.status == "success", result.error
    return latent(server, "loras")


def error(got: Tensor, exact: Tensor) -> float:
    assert got.isfinite().all()
    return ((got - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize("name", [FP8, INT8, NVFP4, GGUF])
def test_they_are_exact_on_quantized_weights(card: ComfyServer, name: str):
    reference = EXACT_GGUF if name == GGUF else f"exact_{name}"
    exact = sampled(card, reference, "loaded by ComfyUI", 1.0, -0.4)
    bare = sampled(card, reference, "loaded by ComfyUI")
    assert error(exact, bare) > 0.03
    for place in PLACES:
        assert error(sampled(card, name, place, 1.0, -0.4), exact) < FP32_ROUNDING, place
    assert error(sampled(card, name, "streamed by the engine"), bare) < FP32_ROUNDING
    rounded = error(sampled(card, name, "streamed by the engine", precision="bf16"), bare)
    with_lora = sampled(card, name, "streamed by the engine", 1.0, -0.4, precision="bf16")
    assert error(with_lora, exact) < 1.5 * rounded


def test_what_is_no_plain_lora_is_not_rounded(card: ComfyServer):
    """DoRA, LoHa and LoKr of stock nodes; whole differences are merged into codes."""
    file = {name: tensor for name, tensor in kinds().items() if ".diff" not in name}
    save_file(file, card.base / "models" / "loras" / KINDS)
    exact = sampled(card, f"exact_{FP8}", "loaded by ComfyUI", 1.0, lora=KINDS)
    bare = sampled(card, FP8, "loaded by ComfyUI")
    assert error(exact, bare) > 0.05
    for place in PLACES:
        assert error(sampled(card, FP8, place, 1.0, lora=KINDS), exact) < FP32_ROUNDING, place
    save_file(kinds(), card.base / "models" / "loras" / KINDS)
    results = [sampled(card, FP8, place, 1.0, lora=KINDS) for place in PLACES]
    for place, other in zip(PLACES, results, strict=True):
        assert error(other, results[2]) < FP32_ROUNDING, place
    exact = sampled(card, f"exact_{FP8}", "loaded by ComfyUI", 1.0, lora=KINDS)
    assert error(results[2], exact) < 0.05


def changed(server: ComfyServer, name: str, place: str, how: str) -> Tensor:
    """Samples two steps with BEYOND on the MODEL, in a hook, or nowhere; nothing is unloaded."""
    _, limits = PLACES[place]
    options = {} if limits is None else {"memory": ("memory", 0)}
    prompt: Prompt = {**random_text(64, 20), **empty_latent(), **model(name, **options)}
    prompt |= {} if limits is None else memory(**limits)
    lora = {"lora_name": BEYOND, "strength_model": 1.0}
    links = {"model_high": ("model", 0), "model_low": None, "steps": 2, **LINKS}
    if how == "model":
        prompt["lora"] = node("LoraLoaderModelOnly", model=("model", 0), **lora)
        links["model_high"] = ("lora", 0)
    if how == "hook":
        prompt["hook"] = node("CreateHookLora", strength_clip=0.0, **lora)
        properties = {"strength": 1.0, "set_cond_area": "default", "hooks": ("hook", 0)}
        prompt["hooked"] = node("ConditioningSetProperties", cond_NEW=("positive", 0), **properties)
        links["positive"] = ("hooked", 0)
    result = server.run({**prompt, **moe_sampler(**links), **save("beyond", latent=("sampler", 0))})
    assert result.status == "success", result.error
    return latent(server, "beyond")


def test_what_is_merged_may_be_beyond_a_formats_range(card: ComfyServer):
    diff = torch.zeros(DIM, DIM)
    diff[::16] = torch.randn(DIM // 16, DIM, generator=torch.Generator().manual_seed(6))
    file = {"diffusion_model.blocks.0.self_attn.v.diff": diff}
    save_file(file, card.base / "models" / "loras" / BEYOND)
    ways = ("model", "hook", "")
    card.run({"card": node("WanDuetTestSetCard", nbytes=ROOMY << 20)})
    exact = {way: changed(card, f"exact_{E5M2}", "loaded by ComfyUI", way) for way in ways}
    assert error(exact["model"], exact[""]) > 0.2
    for place in PLACES:
        card.free()
        card.run({"card": node("WanDuetTestSetCard", nbytes=PLACES[place][0] << 20)})
        for way in ways:
            bound = 4e-2 if way else FP32_ROUNDING
            assert error(changed(card, E5M2, place, way), exact[way]) < bound, (place, way)


def test_nothing_is_rounded_on_gguf(card: ComfyServer):
    """DoRA and whole differences are merged into the dequantized weight of each call."""
    save_file(kinds(), card.base / "models" / "loras" / KINDS)
    exact = sampled(card, EXACT_GGUF, "loaded by ComfyUI", 1.0, lora=KINDS)
    for place in PLACES:
        assert error(sampled(card, GGUF, place, 1.0, lora=KINDS), exact) < FP32_ROUNDING, place
    bare = sampled(card, EXACT_GGUF, "loaded by ComfyUI")
    assert error(bare, exact) > 0.03
    # Nothing of it is left behind.
    assert error(sampled(card, GGUF, "streamed by the engine"), bare) < FP32_ROUNDING
    assert error(sampled(card, GGUF, "loaded by ComfyUI"), bare) < FP32_ROUNDING


def looked(
    server: ComfyServer, name: str, strength: float, seed: int, *, pair: bool = False
) -> dict[str, Any]:
    """Samples through the engine, and returns what it holds afterwards."""
    text = random_text(64, 20)
    loaded = {**memory(blocks_to_swap=0), **model(name, memory=("memory", 0))}
    prompt: Prompt = {**text, **empty_latent(), **loaded}
    about = {"lora_name": LORA, "strength_model": strength}
    prompt["lora"] = node("LoraLoaderModelOnly", model=("model", 0), **about)
    if pair:
        row = {"lora_high": LORA, "lora_low": "none", "strength_high": strength}
        row |= {"strength_low": 1.0, "on": True}
        prompt["lora"] = node("WanDuetLoraPair", model_high=("model", 0), **row)
    links = {"model_high": ("lora", 0), "model_low": None, "steps": 2, "seed": seed, **LINKS}
    prompt |= moe_sampler(**links)
    take = {"model": ("lora", 0), "latent": ("sampler", 0), "nbytes": 0, "name": "looked"}
    prompt["take"] = node("WanDuetTestTakeMemory", **take)
    result = server.run({**prompt, **save("looked", latent=("take", 0))})
    assert result.status == "success", result.error
    lines = (server.output / "looked.jsonl").read_text().splitlines()
    return json.loads(lines[-1])


@pytest.mark.parametrize("name", [FP8, T2V[0]])
def test_what_they_take_is_in_the_plan(card: ComfyServer, name: str):
    card.free()
    card.run({"card": node("WanDuetTestSetCard", nbytes=ROOMY << 20)})
    bare, patched = (looked(card, name, strength, 3) for strength in (0.0, 1.0))
    more = {key: patched[key] - bare[key] for key in ("block_bytes", "activation_bytes", "size")}
    rank, fp32 = 16, 4
    operands = rank * (5 * DIM + FFN_DIM) * fp32  # of two square matrices and ffn.0
    if name == FP8:
        assert operands <= more["block_bytes"] < 1.2 * operands
        assert more["activation_bytes"] == 0
        assert more["size"] == 2 * more["block_bytes"]
    else:
        # Three fp32 copies of the largest weight that is merged into.
        assert more == {"block_bytes": 0, "activation_bytes": 3 * fp32 * DIM * FFN_DIM, "size": 0}


def test_another_strength_moves_no_weight(card: ComfyServer):
    card.free()
    card.run({"card": node("WanDuetTestSetCard", nbytes=ROOMY << 20)})
    for pair in (False, True):
        one, half = (looked(card, FP8, s, 4, pair=pair)["arrivals"] for s in (1.0, 0.5))
        assert len(one) == 2
        assert one == half
    merged, again = (looked(card, T2V[0], strength, 4)["arrivals"] for strength in (1.0, 0.5))
    assert merged != again
