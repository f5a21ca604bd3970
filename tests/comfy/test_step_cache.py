"""The step cache in a real server: what it saves with any sampler, and that it leaves no trace."""

import json
import re
from typing import Any

import pytest

from .graphs import (
    Prompt,
    experts,
    memory,
    model,
    moe_sampler,
    node,
    random_text,
    save,
    stock_model,
)
from .server import ComfyServer
from .stock import (
    T2V_HIGH,
    T2V_LOW,
    TI2V,
    difference,
    empty_latent,
    ksampler,
    ksampler_advanced,
    latent,
    run_to_tensors,
    shifted,
)

pytestmark = pytest.mark.comfy

STEPS = 12
ANY_ERROR: dict[str, Any] = {"threshold": 1.0, "start_percent": 0.0, "end_percent": 1.0}
TEXT = {"positive": ("positive", 0), "negative": ("negative", 0), "latent_image": ("latent", 0)}
BASE: Prompt = {
    **stock_model(T2V_HIGH, "stock_high"),
    **stock_model(T2V_LOW, "stock_low"),
    **model(T2V_HIGH, "ours_high"),
    **model(T2V_LOW, "ours_low"),
    **empty_latent(),
}


def cached(source: str, node_id: str, **options: Any) -> Prompt:
    """Our node on a MODEL."""
    defaults = {"method": "auto", "threshold": 0.0, "start_percent": 0.15, "end_percent": 0.95}
    return {node_id: node("WanDuetStepCache", model=(source, 0), **{**defaults, **options})}


def counted(source: str, node_id: str, name: str) -> Prompt:
    """A MODEL that writes a line per call of the network; the file begins anew."""
    recorder = node("WanDuetTestRecordCalls", model=(source, 0), label=source, name=name)
    return {node_id: recorder}


def lines(server: ComfyServer, name: str) -> list[dict[str, Any]]:
    path = server.output / f"{name}.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def passes(calls: list[dict[str, Any]]) -> tuple[int, int]:
    """Returns how often the positive and the negative prompt were computed."""
    conds = [index for call in calls for index in call["conds"]]
    return conds.count(0), conds.count(1)


def both_experts(node_id: str, high: str, low: str, **options: Any) -> Prompt:
    """Our sampler, 12 steps: at shift 8, 7 on the high-noise expert and 5 on the low."""
    links = {"model_high": (high, 0), "model_low": (low, 0), **TEXT}
    settings = {"steps": STEPS, "shift": 8.0, "cfg_high": 3.0, "cfg_low": 2.0}
    return moe_sampler(node_id, **{**links, **settings, **options})


@pytest.mark.parametrize("method", ["auto", "cfg"])
def test_tiny_threshold_changes_nothing(comfy_server: ComfyServer, method: str):
    options: dict[str, Any] = {**ANY_ERROR, "method": method, "threshold": 1e-7}
    prompt = {**BASE}
    names = []
    for who in ("ours", "stock"):
        for part in ("high", "low"):
            prompt |= cached(f"{who}_{part}", f"{who}_{part}_cached", **options)
        prompt |= both_experts(f"{who}_plain", f"{who}_high", f"{who}_low", sampler="unipc")
        prompt |= both_experts(
            f"{who}_cache", f"{who}_high_cached", f"{who}_low_cached", sampler="unipc"
        )
        for suffix in ("", "_cached"):
            core: dict[str, Any] = {"steps": STEPS, "cfg": 3.0}
            prompt |= ksampler((f"{who}_high{suffix}", 0), f"{who}_core{suffix}", **core)
        names += [f"{who}_plain", f"{who}_cache", f"{who}_core", f"{who}_core_cached"]
    saved = run_to_tensors(comfy_server, prompt, {name: (name, 0) for name in names})

    for plain, cache in zip(names[::2], names[1::2], strict=True):
        assert saved[plain].equal(saved[cache]), cache


@pytest.mark.parametrize(
    ("who", "method"),
    [
        *(("ours", "easycache"), ("ours", "magcache"), ("ours", "cfg")),
        *(("stock", "auto"), ("stock", "cfg")),
    ],
)
def test_both_experts_skip_and_report(comfy_server: ComfyServer, who: str, method: str):
    name = f"skips_{who}_{method}"
    prompt: Prompt = {**BASE, **random_text()}
    for part in ("high", "low"):
        (comfy_server.output / f"{name}_{part}.jsonl").unlink(missing_ok=True)
        prompt |= counted(f"{who}_{part}", part, f"{name}_{part}")
        prompt |= cached(part, f"{part}_cached", method=method, **ANY_ERROR)
    prompt |= both_experts("sampler", "high_cached", "low_cached", steps=20, sampler="unipc")
    prompt |= both_experts("plain", f"{who}_high", f"{who}_low", steps=20, sampler="unipc")
    prompt |= save(name, latent=("sampler", 0)) | save(f"{name}_plain", latent=("plain", 0))
    result = comfy_server.run(prompt)

    assert result.status == "success", result.error
    assert result.progress("sampler") == [(step, 20) for step in range(1, 21)]
    steps_in_all = 0
    for part in ("high", "low"):
        (text,) = result.texts(f"{part}_cached")
        match = re.search(r"skipped (\d+) of (\d+) steps", text)
        assert match is not None, text
        skipped, steps = int(match[1]), int(match[2])
        steps_in_all += steps
        others = re.search(r"reused in (\d+) of (\d+) others", text)
        reused = 0 if others is None else int(others[1])
        conds, unconds = passes(lines(comfy_server, f"{name}_{part}"))
        assert conds == steps - skipped
        assert unconds == conds - reused
        assert (skipped > 0) == (method != "cfg")
        assert (reused > 0) or method != "cfg"
        assert text.splitlines()[0] in comfy_server.log()
    assert steps_in_all == 20
    (plan,) = result.texts("sampler")
    assert "High" in plan
    cache, plain = latent(comfy_server, name), latent(comfy_server, f"{name}_plain")
    assert 0 < (plain - cache).std() < 0.3 * plain.std()


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m", "uni_pc", "euler_cfg_pp"])
def test_core_samplers(comfy_server: ComfyServer, sampler: str):
    """Whatever a sampler does with its calls: some are saved, and the result stays near.

    A network of random weights is far from what the cache is made for, so any error is allowed.
    """
    core: dict[str, Any] = {"steps": 16, "cfg": 3.0, "sampler_name": sampler}
    prompt = {**BASE, **shifted(("stock_high", 0), "shifted", 5.0)}
    prompt |= cached("shifted", "cached", **ANY_ERROR)
    prompt |= ksampler(("shifted", 0), "plain", **core) | ksampler(("cached", 0), "cache", **core)
    prompt |= random_text()
    for name in ("plain", "cache"):
        prompt |= save(f"{name}_{sampler}", latent=(name, 0))
    result = comfy_server.run(prompt)

    assert result.status == "success", result.error
    (text,) = result.texts("cached")
    assert re.search(r"skipped [1-9]\d* of \d+ steps", text), text
    plain, cache = (latent(comfy_server, f"{name}_{sampler}") for name in ("plain", "cache"))
    assert 0 < (plain - cache).std() < 0.3 * plain.std()


def test_cfg_1_few_steps_and_one_expert(comfy_server: ComfyServer):
    """No negative prompt to save at cfg 1, nothing at 4 steps; a cache on one expert alone."""
    prompt: Prompt = {**BASE, **random_text()}
    runs = {
        "guided": {"cfg": 1.0, "steps": STEPS},
        "halves": {"cfg": 1.0, "steps": STEPS},
        "few": {"cfg": 3.0, "steps": 4},
    }
    for name, core in runs.items():
        (comfy_server.output / f"cfg1_{name}.jsonl").unlink(missing_ok=True)
        prompt |= counted("ours_high", f"{name}_model", f"cfg1_{name}")
        method = "cfg" if name == "halves" else "auto"
        prompt |= cached(f"{name}_model", f"{name}_cached", method=method, **ANY_ERROR)
        prompt |= ksampler((f"{name}_cached", 0), name, **core)
        prompt |= save(f"cfg1_{name}", latent=(name, 0))
    prompt |= cached("ours_low", "low_cached", **ANY_ERROR)
    prompt |= both_experts("sampler", "ours_high", "low_cached", steps=20)
    prompt |= save("cfg1_one", latent=("sampler", 0))
    result = comfy_server.run(prompt)

    assert result.status == "success", result.error
    conds, unconds = passes(lines(comfy_server, "cfg1_guided"))
    assert conds < STEPS
    assert unconds == 0
    (text,) = result.texts("guided_cached")
    assert f"skipped {STEPS - conds} of {STEPS} steps" in text
    assert "negative" not in text
    assert passes(lines(comfy_server, "cfg1_halves")) == (STEPS, 0)
    assert "at cfg 1" in result.texts("halves_cached")[0]
    assert passes(lines(comfy_server, "cfg1_few")) == (4, 4)
    assert "a run of 4 steps" in result.texts("few_cached")[0]
    (low,) = result.texts("low_cached")
    assert re.search(r"skipped [1-9]\d* of \d steps", low)


def test_cancelling_leaves_nothing_behind(comfy_server: ComfyServer):
    """After a cancelled run the same prompt gives what it gives on a server that never saw it."""
    (comfy_server.output / "cancelled_cache.jsonl").unlink(missing_ok=True)
    settings: dict[str, Any] = {"steps": 20, "seed": 31, "sampler": "unipc"}
    interrupting = node(
        "WanDuetTestInterrupt", model=("experts", 1), name="cancelled_cache", call=3
    )
    text = random_text(64, 20)
    prompt: Prompt = {**experts(), **text, **empty_latent(), "patched": interrupting}
    prompt |= cached("experts", "high_cached", **ANY_ERROR)
    low = {"low_cached": node("WanDuetStepCache", model=("patched", 0), method="auto", **ANY_ERROR)}
    prompt |= low | both_experts("sampler", "high_cached", "low_cached", **settings)
    prompt |= save("cancelled_cache", latent=("sampler", 0))
    stopped = comfy_server.run(prompt)
    assert stopped.status == "interrupted"
    assert not stopped.texts("low_cached")

    results = []
    for again in ("first", "second"):
        whole: Prompt = {**experts(), **text, **empty_latent()}
        whole |= cached("experts", "high_cached", **ANY_ERROR)
        low = node("WanDuetStepCache", model=("experts", 1), method="auto", **ANY_ERROR)
        whole |= {"low_cached": low}
        whole |= both_experts("sampler", "high_cached", "low_cached", **settings)
        whole |= save(f"cancelled_{again}", latent=("sampler", 0))
        finished = comfy_server.run(whole)
        assert finished.status == "success", finished.error
        assert finished.texts("low_cached")
        results.append(latent(comfy_server, f"cancelled_{again}"))
        comfy_server.free()
    assert difference(*results) <= 1e-6


def test_the_model_is_left_alone_and_every_run_starts_fresh(comfy_server: ComfyServer):
    """Two runs of one cached MODEL, with another video size between, and a cache on a cache."""
    for name in ("cache_before", "cache_after", "cache_inner"):
        (comfy_server.output / f"{name}.jsonl").unlink(missing_ok=True)
    core: dict[str, Any] = {"steps": STEPS, "cfg": 3.0}
    prompt: Prompt = {**BASE, **random_text(), **shifted(("ours_high", 0), "source", 5.0)}
    size = {"width": 80, "height": 64, "length": 9, "batch_size": 2}
    prompt |= {"large": node("EmptyHunyuanLatentVideo", **size)}
    untouched: Prompt = {**prompt, "before": state("source", ("latent", 0), "cache_before")}
    run_to_tensors(comfy_server, untouched, {"before": ("before", 0)})
    prompt |= cached("source", "cached", **ANY_ERROR)
    prompt |= cached("source", "other", method="magcache") | cached("other", "twice", **ANY_ERROR)
    prompt |= ksampler(("cached", 0), "first", **core)
    prompt |= ksampler(("cached", 0), "between", **{**core, "latent_image": ("large", 0)})
    prompt |= {"after": state("source", ("first", 0), "cache_after")}
    prompt |= {"inner": state("cached", ("after", 0), "cache_inner")}
    # Another node, or ComfyUI would not run it again.
    prompt |= ksampler_advanced(("cached", 0), "again", **core)
    prompt |= ksampler(("twice", 0), "replaced", **core)
    prompt |= ksampler(("source", 0), "plain", **core)
    links = {name: (name, 0) for name in ("inner", "between", "again", "replaced", "plain")}
    saved = run_to_tensors(comfy_server, prompt, links)

    assert saved["inner"].equal(saved["again"])
    assert saved["inner"].equal(saved["replaced"])
    assert difference(saved["inner"], saved["plain"]) > 0
    assert saved["between"].isfinite().all()
    (before,), (after,) = (lines(comfy_server, f"cache_{when}") for when in ("before", "after"))
    assert before == after
    (inner,) = lines(comfy_server, "cache_inner")
    assert "wanduet.step_cache" not in inner["model_options"]


def state(source: str, given: tuple[str, int], name: str) -> dict[str, Any]:
    """A node that passes a latent on and writes what the MODEL holds at this moment."""
    return node("WanDuetTestModelState", model=(source, 0), latent=given, name=name)


def test_other_guidance_beside_it(comfy_server: ComfyServer):
    """Layer skipping calls the model for itself, with one prediction: never from the cache."""
    (comfy_server.output / "layers.jsonl").unlink(missing_ok=True)
    skip = {"double_layers": "0", "single_layers": "", "scale": 2.0, "rescaling_scale": 0.0}
    skip |= {"start_percent": 0.0, "end_percent": 1.0}
    core: dict[str, Any] = {"steps": STEPS, "cfg": 3.0}
    prompt: Prompt = {**BASE, **shifted(("ours_high", 0), "source", 5.0)}
    prompt |= {"skip": node("SkipLayerGuidanceDiT", model=("source", 0), **skip)}
    prompt |= cached("skip", "exact", **{**ANY_ERROR, "threshold": 1e-7})
    prompt |= counted("skip", "watched", "layers")
    prompt |= cached("watched", "cached", method="easycache", **ANY_ERROR)
    for name in ("skip", "exact", "cached"):
        prompt |= ksampler((name, 0), f"{name}_latent", **core)
    links = {name: (f"{name}_latent", 0) for name in ("skip", "exact", "cached")}
    saved = run_to_tensors(comfy_server, prompt, links)

    assert saved["skip"].equal(saved["exact"])
    assert difference(saved["skip"], saved["cached"]) > 0
    conds, unconds = passes(lines(comfy_server, "layers"))
    assert unconds < STEPS
    assert conds == unconds + STEPS, "every step has a call with the layer skipped"


def test_wrong_models_and_settings_are_refused(comfy_server: ComfyServer):
    foreign: Prompt = {"foreign": node("WanDuetTestForeign"), **empty_latent(), **random_text()}
    foreign |= cached("foreign", "cached") | ksampler(("cached", 0), "sampler")
    foreign |= save("refused", latent=("sampler", 0))
    result = comfy_server.run(foreign)
    assert result.error is not None
    assert "This model is not Wan 2.2." in result.error["exception_message"]

    empty: Prompt = {**BASE, **random_text()}
    empty |= cached("ours_high", "cached", start_percent=0.9, end_percent=0.1)
    empty |= ksampler(("cached", 0), "sampler") | save("refused", latent=("sampler", 0))
    result = comfy_server.run(empty)
    assert result.error is not None
    assert "start below the end" in result.error["exception_message"]


def test_ti2v_with_given_first_frame(comfy_server: ComfyServer):
    """48 channels, a noise mask and a timestep per frame; the given frame stays exact."""
    size = {"width": 64, "height": 64, "length": 9, "batch_size": 1}
    prompt: Prompt = {
        **stock_model(TI2V, "source"),
        **cached("source", "cached", **ANY_ERROR),
        "empty": node("Wan22ImageToVideoLatent", vae=("vae", 0), **size),
        "vae": node("WanDuetVAELoader", vae_name="toy_wan2.2_vae.safetensors", precision="fp32"),
        "image": node("WanDuetTestImage", seed=3, width=64, height=64, count=1, channels=3),
    }
    prompt["empty"]["inputs"]["start_image"] = ["image", 0]
    for name, source in (("plain", "source"), ("cache", "cached")):
        how: dict[str, Any] = {"steps": STEPS, "cfg": 3.0, "latent_image": ("empty", 0)}
        prompt |= ksampler((source, 0), name, **how)
    links = {"plain": ("plain", 0), "cache": ("cache", 0)}
    saved = run_to_tensors(comfy_server, prompt, links)

    assert saved["plain"][:, :, 0].equal(saved["cache"][:, :, 0])
    assert difference(saved["plain"], saved["cache"]) > 0


def test_weights_that_are_streamed(comfy_server: ComfyServer):
    """Steps without any pass do not confuse the weights engine, not even around the switch."""
    results = []
    for limits in ({}, {"memory": ("memory", 0)}):
        prompt: Prompt = {**random_text(64, 20), **empty_latent(), **experts(**limits)}
        prompt |= memory(blocks_to_swap=1) if limits else {}
        for part, output in (("high", 0), ("low", 1)):
            split = {"model": ("experts", output), "method": "auto", **ANY_ERROR}
            prompt[f"{part}_cached"] = node("WanDuetStepCache", **split)
        prompt |= both_experts("sampler", "high_cached", "low_cached", steps=20, sampler="unipc")
        comfy_server.free()
        results.append(run_to_tensors(comfy_server, prompt, {"streamed": ("sampler", 0)}))
    assert results[0]["streamed"].equal(results[1]["streamed"])


def test_context_windows_are_never_cached(comfy_server: ComfyServer):
    """Each call is for another part of the video."""
    windows = {"context_length": 9, "context_overlap": 5, "context_schedule": "standard_static"}
    windows |= {"context_stride": 1, "closed_loop": False, "fuse_method": "pyramid"}
    windows |= {"freenoise": False, "retain_first_frame": False, "split_conds_to_windows": False}
    prompt: Prompt = {**stock_model(T2V_HIGH, "source"), **empty_latent(length=17)}
    prompt |= {"windows": node("WanContextWindowsManual", model=("source", 0), **windows)}
    prompt |= cached("windows", "cached", **ANY_ERROR)
    core: dict[str, Any] = {"steps": STEPS, "cfg": 3.0}
    prompt |= ksampler(("windows", 0), "plain", **core) | ksampler(("cached", 0), "cache", **core)
    links = {"plain": ("plain", 0), "cache": ("cache", 0)}
    saved = run_to_tensors(comfy_server, prompt, links)

    assert saved["plain"].equal(saved["cache"])
    assert "nothing is skipped: context windows" in comfy_server.log()
