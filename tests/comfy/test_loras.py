"""LoRAs on quantized weights: what they are worth in fp32, wherever the weights are.

The reference is a file of the same weights, dequantized, into which ComfyUI merges the LoRA.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.toy.make_checkpoints import DIM, FFN_DIM
from wan_model.loading import converted_file, load_dit
from wan_model.quant import Linear

from .devices import cpu_only
from .graphs import T2V, Prompt, memory, model, moe_sampler, node, random_text, save
from .server import ComfyServer, prepare
from .stock import LORA, empty_latent, latent

pytestmark = [pytest.mark.comfy, cpu_only]

LINKS = {"positive": ("positive", 0), "negative": ("negative", 0), "latent_image": ("latent", 0)}
FP8 = "toy_t2v_high_noise_scaled_fp8.safetensors"
NVFP4 = "toy4096_t2v_high_noise_nvfp4.safetensors"
MXFP8 = "toy4096_t2v_high_noise_mxfp8.safetensors"
INT8 = "int8.safetensors"
KINDS = "kinds.safetensors"
"""A LoRA file with DoRA, whole differences, and differences of biases beside plain LoRAs."""
HELPERS = ("helper_nodes.py", "emulated_card.py", "memory_nodes.py")
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
    return state | {
        f"{base}ffn.0.lora_A.weight": randn(4, DIM),
        f"{base}ffn.0.lora_B.weight": randn(FFN_DIM, 4),
    }


@pytest.fixture(scope="module")
def card(
    comfyui: Path, toy_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ComfyServer]:
    """A server with an emulated card, and files of dequantized weights."""
    base = tmp_path_factory.mktemp("loras")
    prepare(base, toy_models, HELPERS)
    models = toy_models / "diffusion_models"
    made = base / "made"
    made.mkdir()
    folder = base / "models" / "diffusion_models"
    paths = [models / name for name in (FP8, NVFP4, MXFP8)]
    int8 = converted_file(models / T2V[0], "int8", made, device=torch.device("cpu"))
    (folder / INT8).symlink_to(int8.info.path)
    for path in (*paths, folder / INT8):
        save_file(dequantized(path), folder / f"exact_{path.name}")
    with ComfyServer(comfyui, base, arguments=("--cpu",)) as server:
        yield server


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


@pytest.mark.parametrize("name", [FP8, INT8, MXFP8, NVFP4])
def test_they_are_exact_on_quantized_weights(card: ComfyServer, name: str):
    exact = sampled(card, f"exact_{name}", "loaded by ComfyUI", 1.0, -0.4)
    bare = sampled(card, f"exact_{name}", "loaded by ComfyUI")
    assert error(exact, bare) > 0.03
    for place in PLACES:
        assert error(sampled(card, name, place, 1.0, -0.4), exact) < FP32_ROUNDING, place
        assert error(sampled(card, name, place), bare) < FP32_ROUNDING, place
    rounded = error(sampled(card, name, "streamed by the engine", precision="bf16"), bare)
    with_lora = sampled(card, name, "streamed by the engine", 1.0, -0.4, precision="bf16")
    assert error(with_lora, exact) < 1.5 * rounded


def test_what_is_no_plain_lora_is_merged(card: ComfyServer):
    save_file(kinds(), card.base / "models" / "loras" / KINDS)
    results = [sampled(card, FP8, place, 1.0, lora=KINDS) for place in PLACES]
    for place, other in zip(PLACES, results, strict=True):
        assert error(other, results[2]) < FP32_ROUNDING, place
    exact = sampled(card, f"exact_{FP8}", "loaded by ComfyUI", 1.0, lora=KINDS)
    assert error(results[2], exact) < 0.05 < error(exact, sampled(card, FP8, "loaded by ComfyUI"))


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
