"""Our sampler, guider and sigmas beside core's: stock models, split runs, custom sampling."""

from typing import Any

import pytest

from .graphs import I2V, Prompt, model, moe_sampler, node, random_text, stock_model, vae
from .server import ComfyServer, on_gpu
from .stock import (
    ROUNDING,
    T2V_HIGH,
    T2V_LOW,
    difference,
    empty_latent,
    ksampler,
    ksampler_advanced,
    relative,
    run_to_tensors,
    shifted,
)

pytestmark = pytest.mark.comfy

SHIFT = 8.0
TEXT = {"positive": ("positive", 0), "negative": ("negative", 0)}
PAIR = {
    **stock_model(T2V_HIGH, "stock_high"),
    **stock_model(T2V_LOW, "stock_low"),
    **model(T2V_HIGH, "ours_high"),
    **model(T2V_LOW, "ours_low"),
}


def sampler(node_id: str, high: str = "ours", low: str | None = "ours", **options: Any) -> Prompt:
    """Our sampler on the models "ours" or "stock", 8 steps: 5 high, 3 low."""
    links = {
        "model_high": (f"{high}_high", 0),
        "model_low": low and (f"{low}_low", 0),
        "latent_image": ("latent", 0),
        **TEXT,
    }
    settings = {"steps": 8, "shift": SHIFT, "cfg_high": 3.0, "cfg_low": 1.0}
    return moe_sampler(node_id, **{**links, **settings, **options})


def run(server: ComfyServer, prompt: Prompt, *names: str) -> list[Any]:
    """Returns latents of nodes, in order."""
    links = {name: (name, 0) for name in names}
    saved = run_to_tensors(server, {**PAIR, **empty_latent(), **prompt}, links)
    return [saved[name] for name in names]


@pytest.mark.parametrize("name", ["unipc", "dpm++", "euler", "res_multistep"])
def test_models_of_any_loader(comfy_server: ComfyServer, name: str):
    prompt = {
        **sampler("both_ours", sampler=name),
        **sampler("both_stock", "stock", "stock", sampler=name),
        **sampler("mixed", "stock", "ours", sampler=name),
        **sampler("mixed_too", "ours", "stock", sampler=name),
    }
    ours, *others = run(comfy_server, prompt, "both_ours", "both_stock", "mixed", "mixed_too")

    assert ours.std() > 0.5
    assert all(relative(ours, other) <= ROUNDING for other in others)


def test_euler_equals_two_stock_samplers(comfy_server: ComfyServer):
    prompt = {**sampler("one_run", sampler="euler", scheduler="wan")}
    for who in ("ours", "stock"):
        prompt |= shifted((f"{who}_high", 0), f"{who}_high_8", SHIFT)
        prompt |= shifted((f"{who}_low", 0), f"{who}_low_8", SHIFT)
        first = {"end_at_step": 5, "return_with_leftover_noise": "enable", "cfg": 3.0}
        prompt |= ksampler_advanced((f"{who}_high_8", 0), f"{who}_first", steps=8, **first)
        second = {"start_at_step": 5, "add_noise": "disable", "latent_image": (f"{who}_first", 0)}
        prompt |= ksampler_advanced((f"{who}_low_8", 0), f"{who}_split", steps=8, **second)
    one_run, ours, stock = run(comfy_server, prompt, "one_run", "ours_split", "stock_split")

    assert relative(one_run, ours) <= ROUNDING
    assert relative(one_run, stock) <= ROUNDING


def test_run_split_over_two_of_our_nodes(comfy_server: ComfyServer):
    prompt = sampler("whole", sampler="euler")
    names = ["whole"]
    for step in (3, 5, 6):
        first: dict[str, Any] = {"end_at_step": step, "return_with_leftover_noise": "enable"}
        prompt |= sampler(f"first_{step}", sampler="euler", **first)
        second = {"start_at_step": step, "add_noise": "disable", "seed": 99}
        latent: dict[str, Any] = {"latent_image": (f"first_{step}", 0)}
        prompt |= sampler(f"split_{step}", sampler="euler", **second, **latent)
        names.append(f"split_{step}")
    whole, *splits = run(comfy_server, prompt, *names)

    assert all(relative(whole, split) <= ROUNDING for split in splits)


def test_steps_denoise_and_noise_mean_what_core_means(comfy_server: ComfyServer):
    """One model, scheduler simple: the same as KSamplerAdvanced and KSampler."""
    prompt = shifted(("ours_high", 0), "shifted", SHIFT)
    prompt |= sampler("content", low=None, sampler="euler", seed=1)
    ranges = {
        "whole": {},
        "part": {"start_at_step": 2, "end_at_step": 6, "return_with_leftover_noise": "enable"},
        "cut": {"start_at_step": 2, "end_at_step": 6},
        "rest": {"start_at_step": 5, "add_noise": "disable"},
    }
    pairs = []
    for name, options in ranges.items():
        for method in ("euler", "dpmpp_2m"):
            latent = {"latent_image": ("content", 0)}
            ours, stock = f"{name}_{method}_ours", f"{name}_{method}_stock"
            mine = {"sampler": method, "scheduler": "simple", **latent, **options}
            prompt |= sampler(ours, low=None, **mine)
            core = {"steps": 8, "cfg": 3.0, "sampler_name": method, **latent, **options}
            prompt |= ksampler_advanced(("shifted", 0), stock, **core)
            pairs.append((ours, stock))
    for denoise in (0.5, 0.3):
        mine = {"sampler": "uni_pc", "scheduler": "normal", "denoise": denoise}
        prompt |= sampler(f"d{denoise}_ours", low=None, latent_image=("content", 0), **mine)
        core = {"steps": 8, "cfg": 3.0, "sampler_name": "uni_pc", "scheduler": "normal"}
        core |= {"denoise": denoise, "latent_image": ("content", 0)}
        prompt |= ksampler(("shifted", 0), f"d{denoise}_stock", **core)
        pairs.append((f"d{denoise}_ours", f"d{denoise}_stock"))
    names = [name for pair in pairs for name in pair]
    saved = dict(
        zip([*names, "content"], run(comfy_server, prompt, *names, "content"), strict=True)
    )

    for ours, stock in pairs:
        assert relative(saved[ours], saved[stock]) <= ROUNDING, ours
        assert not saved[ours].equal(saved["content"])


def test_custom_sampling_equals_our_sampler(comfy_server: ComfyServer):
    prompt: Prompt = {"noise": node("RandomNoise", noise_seed=7)}
    names = []
    for method in ("unipc", "dpm++", "euler", "euler_cfg_pp"):
        prompt |= sampler(f"{method}_node", sampler=method)
        prompt[f"{method}_guider"] = node(
            "WanDuetMoEGuider",
            model_high=("ours_high", 0),
            model_low=("stock_low", 0),
            cfg_high=3.0,
            cfg_low=1.0,
            boundary=0.0,
            **TEXT,
        )
        schedule = {"steps": 8, "shift": SHIFT, "scheduler": "wan", "boundary": 0.0, "denoise": 1.0}
        prompt[f"{method}_sigmas"] = node(
            "WanDuetSigmas", model=("stock_high", 0), sampler=method, **schedule
        )
        prompt[f"{method}_select"] = node("WanDuetSamplerSelect", sampler=method)
        prompt[f"{method}_custom"] = node(
            "SamplerCustomAdvanced",
            noise=("noise", 0),
            guider=(f"{method}_guider", 0),
            sampler=(f"{method}_select", 0),
            sigmas=(f"{method}_sigmas", 0),
            latent_image=("latent", 0),
        )
        names += [f"{method}_node", f"{method}_custom"]
    single = {"positive": ("positive", 0), "negative": ("negative", 0)}
    ours = {"cfg_high": 3.0, "cfg_low": 0.0, "boundary": 0.0, **single}
    prompt["ours_single"] = node("WanDuetMoEGuider", model_high=("ours_high", 0), **ours)
    prompt["core_single"] = node("CFGGuider", model=("ours_high", 0), cfg=3.0, **single)
    for guider in ("ours_single", "core_single"):
        custom = {"noise": ("noise", 0), "guider": (guider, 0), "sampler": ("unipc_select", 0)}
        custom |= {"sigmas": ("unipc_sigmas", 0), "latent_image": ("latent", 0)}
        prompt[f"{guider}_latent"] = node("SamplerCustomAdvanced", **custom)
        names.append(f"{guider}_latent")
    saved = run(comfy_server, prompt, *names)

    for mine, custom in zip(saved[::2], saved[1::2], strict=True):
        assert relative(mine, custom) <= ROUNDING
    assert difference(saved[0], saved[2]) > 0.01


def test_nodes_of_others_on_each_expert(comfy_server: ComfyServer):
    """LoRAs, step caches and layer skipping of core act on the expert they are put on."""
    cache = {"reuse_threshold": 3.0, "start_percent": 0.0, "end_percent": 1.0, "verbose": False}
    skip = {
        "double_layers": "0",
        "single_layers": "",
        "scale": 2.0,
        "rescaling_scale": 0.0,
        "start_percent": 0.0,
        "end_percent": 1.0,
    }
    makers = {
        "lora": lambda m: node(
            "LoraLoaderModelOnly", model=m, lora_name="toy_lora.safetensors", strength_model=1.0
        ),
        "easy": lambda m: node("EasyCache", model=m, **cache),
        "lazy": lambda m: node("LazyCache", model=m, **cache),
        "skip": lambda m: node("SkipLayerGuidanceDiT", model=m, **skip),
    }
    prompt = sampler("plain", sampler="euler", cfg_low=2.0, steps=12)
    names = ["plain"]
    for name, make in makers.items():
        for who in ("high", "low"):
            prompt[f"{name}_{who}"] = make((f"ours_{who}", 0))
        for high, low in ((True, False), (False, True), (True, True)):
            links: dict[str, Any] = {
                "model_high": (f"{name}_high" if high else "ours_high", 0),
                "model_low": (f"{name}_low" if low else "ours_low", 0),
            }
            node_id = f"{name}_{high:d}{low:d}"
            prompt |= sampler(node_id, sampler="euler", cfg_low=2.0, steps=12, **links)
            names.append(node_id)
    saved = dict(zip(names, run(comfy_server, prompt, *names), strict=True))

    for name in makers:
        results = [saved["plain"], *(saved[f"{name}_{mask}"] for mask in ("10", "01", "11"))]
        distances = [difference(a, b) for i, a in enumerate(results) for b in results[:i]]
        assert min(distances) > 1e-3, name


def test_second_expert_gets_conditionings_of_its_own(comfy_server: ComfyServer):
    """36 channels, two samples, a noise mask: as core does with one model at a time."""
    high, low = I2V
    size = {"width": 64, "height": 48, "length": 9, "batch_size": 2}
    start = node("WanDuetTestImage", seed=3, width=64, height=48, count=1, channels=3)
    prompt = {
        **random_text(64, 16),
        **model(high, "high"),
        **model(high, "high_again", attention="auto"),
        **model(low, "low"),
        **vae(),
        "image": start,
        "size": node("WanImageToVideo", vae=("vae", 0), start_image=("image", 0), **TEXT, **size),
        "mask": node("SolidMask", value=0.5, width=64, height=48),
        "masked": node("SetLatentNoiseMask", samples=("size", 2), mask=("mask", 0)),
        **shifted(("high", 0), "high_5", 5.0),
        **shifted(("low", 0), "low_5", 5.0),
        **shifted(("high_again", 0), "again_5", 5.0),
    }
    links = {"positive": ("size", 0), "negative": ("size", 1)}
    settings = {"steps": 8, "shift": 5.0, "cfg_high": 2.0, "cfg_low": 3.0, **links}
    pair = {"model_high": ("high", 0), "model_low": ("low", 0)}
    prompt |= moe_sampler("one_run", latent_image=("size", 2), **pair, **settings)
    first = {"end_at_step": 3, "return_with_leftover_noise": "enable", "cfg": 2.0, **links}
    prompt |= ksampler_advanced(("high_5", 0), "first", steps=8, latent_image=("size", 2), **first)
    rest = {"start_at_step": 3, "add_noise": "disable", "cfg": 3.0, **links}
    prompt |= ksampler_advanced(("low_5", 0), "split", steps=8, latent_image=("first", 0), **rest)

    same = {"model_high": ("high", 0), "model_low": ("again_5", 0), "cfg_low": 2.0}
    prompt |= moe_sampler("inpaint", **{**settings, **same, "latent_image": ("masked", 0)})
    stock = {"latent_image": ("masked", 0), "steps": 8, "cfg": 2.0, **links}
    prompt |= ksampler(("high_5", 0), "stock_inpaint", **stock)
    names = ("one_run", "split", "inpaint", "stock_inpaint")
    saved = run_to_tensors(comfy_server, prompt, {name: (name, 0) for name in names})

    assert saved["one_run"].shape == (2, 16, 3, 6, 8)
    assert relative(saved["one_run"], saved["split"]) <= ROUNDING
    assert relative(saved["inpaint"], saved["stock_inpaint"]) <= ROUNDING
    assert difference(saved["one_run"], saved["inpaint"]) > 0.01
    assert difference(saved["one_run"][0], saved["one_run"][1]) > 0.01


def test_experts_that_share_one_loaded_model(comfy_server: ComfyServer):
    """Both experts from one file, told apart by LoRAs alone: weights are patched at the switch."""
    prompt: Prompt = shifted(("ours_high", 0), "equal", SHIFT)
    for strength in (1.0, -1.0):
        for source in ("ours_high", "stock_high"):
            lora = {"lora_name": "toy_lora.safetensors", "strength_model": strength}
            node_id = f"{source}_{strength}"
            prompt[node_id] = node("LoraLoaderModelOnly", model=(source, 0), **lora)
    pairs = {
        "shared": ("ours_high_1.0", "ours_high_-1.0"),
        "apart": ("ours_high_1.0", "stock_high_-1.0"),
        "plain_first": ("ours_high", "ours_high_1.0"),
        "plain_apart": ("stock_high", "ours_high_1.0"),
        "same_twice": ("ours_high", "equal"),
    }
    for name, (high, low) in pairs.items():
        links: dict[str, Any] = {"model_high": (high, 0), "model_low": (low, 0)}
        for method in ("unipc", "heun"):
            prompt |= sampler(f"{name}_{method}", sampler=method, **links)
    names = [f"{name}_{method}" for name in pairs for method in ("unipc", "heun")]
    saved = dict(zip(names, run(comfy_server, prompt, *names), strict=True))

    for method in ("unipc", "heun"):
        shared, apart, first, first_apart, same = (saved[f"{name}_{method}"] for name in pairs)
        # Newer cores add LoRAs in 16 bit on a GPU, we in fp32.
        assert relative(shared, apart) <= (4e-4 if on_gpu() else ROUNDING)
        assert relative(first, first_apart) <= ROUNDING
        assert difference(shared, same) > 0.01
        assert difference(first, same) > 0.01


def test_switch_between_equal_experts_is_not_seen(comfy_server: ComfyServer):
    """Core's samplers keep history, random state and their own hooks over the switch."""
    methods = ("euler_cfg_pp", "res_multistep_cfg_pp", "dpmpp_2m", "uni_pc", "heun", "dpmpp_2m_sde")
    prompt = shifted(("ours_high", 0), "shifted", SHIFT)
    prompt |= shifted(("stock_high", 0), "equal", SHIFT)
    for method in methods:
        equal: dict[str, Any] = {"model_low": ("equal", 0), "cfg_low": 3.0}
        how = {"sampler": method, "scheduler": "simple"}
        prompt |= sampler(f"{method}_ours", **how, **equal)
        core = {"sampler_name": method, "steps": 8, "cfg": 3.0}
        prompt |= ksampler(("shifted", 0), f"{method}_core", **core)
    names = [f"{method}_{who}" for method in methods for who in ("ours", "core")]
    saved = dict(zip(names, run(comfy_server, prompt, *names), strict=True))

    for method in methods:
        assert relative(saved[f"{method}_ours"], saved[f"{method}_core"]) <= ROUNDING, method
