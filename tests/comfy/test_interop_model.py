"""Our MODEL under stock nodes computes what core's own MODEL computes, on the same file."""

from pathlib import Path
from typing import Any

import pytest

from .graphs import Prompt, model, node, random_text
from .server import ComfyServer, on_gpu
from .stock import (
    LORA,
    ROUNDING,
    T2V_HIGH,
    T2V_LOW,
    difference,
    empty_latent,
    ksampler,
    ksampler_advanced,
    loaders,
    relative,
    run_to_tensors,
    shifted,
)

pytestmark = pytest.mark.comfy

SETTINGS = [
    (sampler, scheduler, cfg)
    for sampler, scheduler in (("euler", "simple"), ("uni_pc", "normal"), ("dpmpp_2m", "beta"))
    for cfg in (1.0, 4.0)
]


def compare(
    server: ComfyServer, prompt: Prompt, variants: list[Any], sample: Any, rtol: float = ROUNDING
) -> None:
    """Runs `sample(model, id, variant)` on both MODELs for each variant, in one prompt.

    Each pair must agree, and no two variants may.
    """
    latents = {}
    for who, nodes in loaders(T2V_HIGH).items():
        prompt = {**prompt, **nodes}
        for i, variant in enumerate(variants):
            prompt = {**prompt, **sample((who, 0), f"{who}_{i}", variant)}
            latents[f"{who}_{i}"] = (f"{who}_{i}", 0)
    saved = run_to_tensors(server, prompt, latents)
    for i, variant in enumerate(variants):
        error = relative(saved[f"ours_{i}"], saved[f"stock_{i}"])
        assert error <= rtol, variant
        others = [saved[f"ours_{j}"] for j in range(i)]
        assert all(difference(saved[f"ours_{i}"], other) > 0.01 for other in others), variant


def test_ksampler(comfy_server: ComfyServer):
    variants = [(*setting, 7) for setting in SETTINGS] + [("euler", "simple", 1.0, 8)]

    def sample(model: tuple[str, int], node_id: str, variant: Any) -> Prompt:
        names = ("sampler_name", "scheduler", "cfg", "seed")
        return ksampler(model, node_id, **dict(zip(names, variant, strict=True)))

    compare(comfy_server, empty_latent(), variants, sample)


def test_denoise_and_shift(comfy_server: ComfyServer):
    def sample(model: tuple[str, int], node_id: str, variant: Any) -> Prompt:
        shift, denoise = variant
        first = ksampler(model, f"{node_id}_first", seed=1)
        second = ksampler(
            (f"{node_id}_shift", 0),
            node_id,
            denoise=denoise,
            latent_image=(f"{node_id}_first", 0),
        )
        return {**first, **shifted(model, f"{node_id}_shift", shift), **second}

    compare(comfy_server, empty_latent(), [(3.0, 1.0), (12.0, 1.0), (5.0, 0.5)], sample)


def test_batch_and_sizes_that_need_padding(comfy_server: ComfyServer):
    for size in ({"width": 72, "height": 56}, {"batch_size": 2}, {"length": 1}):

        def sample(model: tuple[str, int], node_id: str, cfg: float) -> Prompt:
            return ksampler(model, node_id, cfg=cfg)

        compare(comfy_server, empty_latent(**size), [1.0, 4.0], sample)


def test_custom_sampling(comfy_server: ComfyServer):
    def sample(model: tuple[str, int], node_id: str, cfg: float) -> Prompt:
        text = {"positive": ("positive", 0), "negative": ("negative", 0)}
        return {
            f"{node_id}_guider": node("CFGGuider", model=model, cfg=cfg, **text),
            f"{node_id}_sigmas": node(
                "BasicScheduler", model=model, scheduler="beta", steps=3, denoise=1.0
            ),
            node_id: node(
                "SamplerCustomAdvanced",
                noise=("noise", 0),
                guider=(f"{node_id}_guider", 0),
                sampler=("select", 0),
                sigmas=(f"{node_id}_sigmas", 0),
                latent_image=("latent", 0),
            ),
        }

    shared = {
        "noise": node("RandomNoise", noise_seed=7),
        "select": node("KSamplerSelect", sampler_name="res_multistep"),
    }
    compare(comfy_server, {**empty_latent(), **shared}, [1.0, 3.5], sample)


def test_two_models_in_a_split_run(comfy_server: ComfyServer):
    low = {f"{who}_low": nodes[who] for who, nodes in loaders(T2V_LOW).items()}

    def sample(model: tuple[str, int], node_id: str, cfg: float) -> Prompt:
        first = ksampler_advanced(
            model, f"{node_id}_high", cfg=cfg, end_at_step=2, return_with_leftover_noise="enable"
        )
        second = ksampler_advanced(
            (f"{model[0]}_low", 0),
            node_id,
            cfg=cfg,
            add_noise="disable",
            start_at_step=2,
            latent_image=(f"{node_id}_high", 0),
        )
        return {**first, **second}

    compare(comfy_server, {**empty_latent(), **low}, [1.0, 3.5], sample)


def test_lora(comfy_server: ComfyServer):
    def sample(model: tuple[str, int], node_id: str, strength: float) -> Prompt:
        lora = node("LoraLoaderModelOnly", model=model, lora_name=LORA, strength_model=strength)
        return {f"{node_id}_lora": lora, **ksampler((f"{node_id}_lora", 0), node_id)}

    # Newer cores add LoRAs in 16 bit on a GPU, we in fp32.
    rtol = 4e-4 if on_gpu() else ROUNDING
    compare(comfy_server, empty_latent(), [0.0, 1.0, -0.5], sample, rtol)


@pytest.mark.parametrize("spelling", ["scaled_fp8", "comfy_quant"])
def test_lora_on_fp8_weights(comfy_server: ComfyServer, spelling: str):
    """A LoRA changes a scaled fp8 model as it changes the file that model was made from."""
    files = {"exact": "toy_t2v_high_noise", "fp8": f"toy_t2v_high_noise_{spelling}"}
    prompt = {**random_text(64, 16), **empty_latent()}
    names = []
    for who, file in files.items():
        prompt |= model(f"{file}.safetensors", who)
        prompt[f"{who}_lora"] = node(
            "LoraLoaderModelOnly", model=(who, 0), lora_name=LORA, strength_model=1.0
        )
        for source in (who, f"{who}_lora"):
            prompt |= ksampler((source, 0), f"{source}_latent", steps=1)
            names.append(f"{source}_latent")
    saved = run_to_tensors(comfy_server, prompt, {name: (name, 0) for name in names})
    exact, exact_lora, fp8, fp8_lora = (saved[name] for name in names)

    effect = (exact_lora - exact).norm()
    assert (fp8_lora - fp8 - (exact_lora - exact)).norm() < 0.3 * effect
    assert (fp8_lora - exact_lora).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize("name", ["nvfp4", "mxfp8"])
def test_small_scales_of_blocks(comfy_server: ComfyServer, comfyui: Path, name: str):
    """A file in ComfyUI's newer formats means the same to ours as to core's loader."""
    if f'"{name}"' not in (comfyui / "comfy" / "quant_ops.py").read_text():
        pytest.skip(f"This ComfyUI cannot read {name}.")
    prompt, file = empty_latent(), f"toy4096_t2v_high_noise_{name}.safetensors"
    for who, nodes in loaders(file).items():
        prompt |= {**nodes, **ksampler((who, 0), f"{who}_latent")}
    saved = run_to_tensors(
        comfy_server, prompt, {who: (f"{who}_latent", 0) for who in loaders(file)}
    )
    # Core's kernels on a GPU dequantize to bf16, we multiply with fp32 values here.
    assert relative(saved["ours"], saved["stock"]) <= (1.5e-3 if on_gpu() else ROUNDING)


def test_skip_layer_guidance(comfy_server: ComfyServer):
    def sample(model: tuple[str, int], node_id: str, layers: str) -> Prompt:
        skip = node(
            "SkipLayerGuidanceDiT",
            model=model,
            double_layers=layers,
            single_layers="",
            scale=2.0,
            start_percent=0.0,
            end_percent=1.0,
            rescaling_scale=0.0,
        )
        return {f"{node_id}_skip": skip, **ksampler((f"{node_id}_skip", 0), node_id, cfg=3.0)}

    compare(comfy_server, empty_latent(), ["", "0", "1"], sample)


def test_easy_cache(comfy_server: ComfyServer):
    def sample(model: tuple[str, int], node_id: str, threshold: float) -> Prompt:
        options = {"start_percent": 0.0, "end_percent": 1.0, "verbose": False}
        cache = node("EasyCache", model=model, reuse_threshold=threshold, **options)
        return {f"{node_id}_cache": cache, **ksampler((f"{node_id}_cache", 0), node_id, steps=6)}

    compare(comfy_server, empty_latent(), [0.0, 3.0], sample)
