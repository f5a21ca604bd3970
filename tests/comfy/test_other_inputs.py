"""What core's nodes take, ours take: lengths, images, single frames, merged models, LoRA files."""

from typing import Any

import pytest
from safetensors.torch import load_file

from tests.toy.make_checkpoints import make_lora
from tests.toy.make_checkpoints import save as save_file

from .graphs import (
    I2V,
    T2V,
    VAE_22,
    Prompt,
    experts,
    image_to_video,
    memory,
    model,
    moe_sampler,
    node,
    random_text,
    save,
    vae,
)
from .server import ComfyServer
from .stock import (
    ROUNDING,
    T2V_HIGH,
    T2V_LOW,
    difference,
    empty_latent,
    ksampler,
    latent,
    relative,
    run_to_tensors,
)

pytestmark = pytest.mark.comfy

TEXT: dict[str, Any] = {"positive": ("positive", 0), "negative": ("negative", 0)}
LINKS: dict[str, Any] = {"model_high": ("model", 0), "model_low": None}


def image(count: int = 1, channels: int = 3, node_id: str = "image") -> Prompt:
    options = {"width": 64, "height": 64, "count": count, "channels": channels}
    return {node_id: node("WanDuetTestImage", seed=3, **options)}


@pytest.mark.parametrize("frames", [2, 3, 4, 6, 8, 10, 80])
def test_a_vae_encodes_the_first_frames_of_any_video(comfy_server: ComfyServer, frames: int):
    kept = (frames - 1) // 4 * 4 + 1
    prompt = {
        **vae(),
        **image(frames),
        "core": node("VAELoader", vae_name="toy_wan_2.1_vae.safetensors"),
    }
    names = ("ours", "tiled", "exact", "stock")
    for name in names:
        pixels = ("cut", 0) if name == "exact" else ("image", 0)
        source = ("core", 0) if name == "stock" else ("vae", 0)
        prompt[name] = node("VAEEncode", pixels=pixels, vae=source)
        prompt |= save(name, latent=(name, 0))
    sizes = {"tile_size": 64, "overlap": 0, "temporal_size": 4096, "temporal_overlap": 4}
    prompt["tiled"] = node("VAEEncodeTiled", pixels=("image", 0), vae=("vae", 0), **sizes)
    prompt["cut"] = node("ImageFromBatch", image=("image", 0), batch_index=0, length=kept)
    result = comfy_server.run(prompt)
    assert result.status == "success", result.error

    text = f"The first {kept} of {frames} frames are encoded: a latent holds 4n+1 frames."
    assert result.texts("ours") == [text]
    assert result.texts("exact") == []
    for name in names[1:]:
        assert relative(latent(comfy_server, "ours"), latent(comfy_server, name)) <= ROUNDING


@pytest.mark.parametrize("channels", [1, 4])
def test_images_of_any_number_of_channels(comfy_server: ComfyServer, channels: int):
    """Grey becomes colour: like ImageToMask and MaskToImage, which repeat the one channel."""
    prompt = {**random_text(64, 8), **image(channels=channels), **vae(), **vae(VAE_22, "vae_22")}
    prompt["red"] = node("ImageToMask", image=("image", 0), channel="red")
    prompt["colour"] = node("MaskToImage", mask=("red", 0))
    if channels == 4:
        prompt["alpha"] = node("SolidMask", value=0.5, width=64, height=64)
        colour = node("WanDuetTestImage", seed=3, width=64, height=64, count=1, channels=3)
        join = node("JoinImageWithAlpha", image=("colour", 0), alpha=("alpha", 0))
        prompt |= {"colour": colour, "image": join}
    size = {"width": 64, "height": 64, "length": 5, "batch_size": 1}
    for name in ("image", "colour"):
        start = {"start_image": (name, 0), **TEXT}
        prompt[f"a14b_{name}"] = image_to_video(**start, height=64)["size"]
        prompt[f"core_{name}"] = node("WanImageToVideo", vae=("vae", 0), **start, **size)
        prompt[f"5b_{name}"] = image_to_video(**start, height=64, vae=("vae_22", 0))["size"]
        for kind in ("a14b", "core"):
            prompt |= save(f"{kind}_{name}", conditioning=(f"{kind}_{name}", 0))
        prompt |= save(f"5b_{name}", latent=(f"5b_{name}", 2))
    result = comfy_server.run(prompt)
    assert result.status == "success", result.error

    for kind, key in (
        ("a14b", "concat_latent_image"),
        ("5b", "samples"),
        ("core", "concat_latent_image"),
    ):
        one, other = (
            load_file(comfy_server.output / f"{kind}_{name}.safetensors")[key]
            for name in ("image", "colour")
        )
        assert relative(one, other) <= ROUNDING, kind


@pytest.mark.parametrize("source", ["EmptySD3LatentImage", "EmptyLatentImage"])
def test_an_image_is_a_video_of_one_frame(comfy_server: ComfyServer, source: str):
    prompt = {**model(T2V_HIGH), "latent": node(source, width=64, height=48, batch_size=2)}
    prompt["video"] = node("EmptyHunyuanLatentVideo", width=64, height=48, length=1, batch_size=2)
    options: dict[str, Any] = {**LINKS, **TEXT, "steps": 2}
    prompt |= moe_sampler("image", latent_image=("latent", 0), **options)
    prompt |= moe_sampler("one_frame", latent_image=("video", 0), **options)
    names = ("image", "one_frame")
    saved = run_to_tensors(comfy_server, prompt, {name: (name, 0) for name in names})

    assert saved["image"].shape == (2, 16, 1, 6, 8)
    assert relative(saved["image"], saved["one_frame"]) <= ROUNDING


@pytest.mark.parametrize(("engine", "ratio"), [(False, 0.0), (True, 0.0), (False, 0.25)])
def test_a_merged_model_is_merged_in_all_its_weights(
    comfy_server: ComfyServer, engine: bool, ratio: float
):
    """Modulations lie beside layers, where ComfyUI merges nothing."""
    options = {"memory": ("memory", 0)} if engine else {}
    prompt = {**memory(), **empty_latent()}
    prompt |= model(T2V_HIGH, "first", **options) | model(T2V_LOW, "second", **options)
    prompt |= model(T2V_HIGH, "third", memory=("memory", 0))
    merge = {"model2": ("second", 0), "ratio": ratio}
    prompt["merged"] = node("ModelMergeSimple", model1=("first", 0), **merge)
    prompt["other"] = node("ModelMergeSimple", model1=("third", 0), **merge)
    for name in ("first", "merged", "second", "other"):
        prompt |= ksampler((name, 0), f"of_{name}")
    prompt |= ksampler(("first", 0), "again")
    names = ("of_first", "of_merged", "of_second", "of_other", "again")
    saved = run_to_tensors(comfy_server, prompt, {name: (name, 0) for name in names})

    if ratio == 0:
        assert relative(saved["of_merged"], saved["of_second"]) <= ROUNDING
    assert relative(saved["of_merged"], saved["of_other"]) <= ROUNDING
    assert difference(saved["of_merged"], saved["of_first"]) > 0.01
    assert relative(saved["again"], saved["of_first"]) <= ROUNDING


def test_a_lora_file_says_what_it_does(comfy_server: ComfyServer):
    folder = comfy_server.base / "models"
    save_file(folder, "loras", "narrow", make_lora("narrow", dim=128, ffn_dim=256))
    foreign = {f"some.{key}": tensor for key, tensor in make_lora("foreign").items()}
    save_file(folder, "loras", "foreign", foreign)
    save_file(folder, "loras", "deep", make_lora("deep", layers=4))
    files = ("toy_lora", "narrow", "foreign", "deep")
    nothing, other = (
        ". It has no effect on this model.",
        "'Wan 2.2 Load LoRA Pair' reads files of more",
    )
    other += " trainers."
    wrong = f"{nothing[:-1]}; choose one made for it: 14B and 5B need their own."
    for options in ({}, {"memory": ("memory", 0)}):
        prompt = {**random_text(), **empty_latent(), **memory(), **model(T2V_HIGH, **options)}
        for name in files:
            lora = {"lora_name": f"{name}.safetensors", "strength_model": 1.0}
            prompt[name] = node("LoraLoaderModelOnly", model=("model", 0), **lora)
            prompt |= ksampler((name, 0), f"with_{name}", steps=1)
            prompt |= save(f"with_{name}", latent=(f"with_{name}", 0))
        result = comfy_server.run(prompt)
        assert result.status == "success", result.error

        assert [result.texts(name) for name in files] == [
            ["LoRA: 6 matched, 0 skipped, 0 failed."],
            [f"LoRA: 0 matched, 0 skipped, 6 failed (made for weights of another size){wrong}"],
            [f"LoRA: 0 matched, 0 skipped, 0 failed{nothing[:-1]}; {other}"],
            ["LoRA: 6 matched, 0 skipped, 0 failed."],
        ]


@pytest.mark.parametrize("options", [{}, {"memory": ("memory", 0)}], ids=["plain", "engine"])
@pytest.mark.parametrize("file", [T2V_HIGH, "toy_t2v_high_noise_scaled_fp8.safetensors"])
def test_a_hook_lora_of_another_width_says_so(
    comfy_server: ComfyServer, file: str, options: dict[str, Any]
):
    folder = comfy_server.base / "models"
    save_file(folder, "loras", "narrow", make_lora("narrow", dim=128, ffn_dim=256))
    lora = {"lora_name": "narrow.safetensors", "strength_model": 1.0, "strength_clip": 0.0}
    text = random_text(4096 if "4096" in file else 64, 8)
    prompt = {**text, **empty_latent(), **memory(), **model(file, **options)}
    prompt["hook"] = node("CreateHookLora", **lora)
    properties = {"strength": 1.0, "set_cond_area": "default", "hooks": ("hook", 0)}
    prompt["hooked"] = node("ConditioningSetProperties", cond_NEW=("positive", 0), **properties)
    for name, positive in (("with", ("hooked", 0)), ("without", ("positive", 0))):
        prompt |= ksampler(("model", 0), name, steps=2, cfg=3.0, positive=positive)
        prompt |= save(f"narrow_{name}", latent=(name, 0))
    result = comfy_server.run(prompt)

    assert result.status == "success", result.error
    said = [text for text in result.texts("with") if "LoRA" in text]
    size = "made for weights of another size"
    nothing = "It has no effect on this model; choose one made for it: 14B and 5B need their own."
    assert said == [f"LoRA: 0 matched, 0 skipped, 6 failed ({size}). {nothing}"]
    saved = [latent(comfy_server, f"narrow_{name}") for name in ("with", "without")]
    assert relative(*saved) <= ROUNDING  # hooked conditions run apart from others


def test_merging_models_says_nothing_of_loras(comfy_server: ComfyServer):
    prompt = {**random_text(), **empty_latent(), **model(T2V_HIGH, "a"), **model(T2V_LOW, "b")}
    prompt["merged"] = node("ModelMergeSimple", model1=("a", 0), model2=("b", 0), ratio=0.5)
    prompt |= ksampler(("merged", 0), "sampler", steps=1) | save("merged", latent=("sampler", 0))
    result = comfy_server.run(prompt)

    assert result.status == "success", result.error
    assert result.texts("merged") == []


def test_a_lone_expert_is_named(comfy_server: ComfyServer):
    prompt = {**random_text(64, 8), **empty_latent(), **model(T2V[0]), **model(T2V[1], "low")}
    options = {"latent_image": ("latent", 0), "steps": 8, **TEXT}
    cases: dict[str, dict[str, Any]] = {
        "high": {**LINKS},
        "low": {"model_high": ("low", 0), "model_low": None},
        "its_part": {**LINKS, "end_at_step": 3},
        "pair": {"model_high": ("model", 0), "model_low": ("low", 0)},
    }
    for name, links in cases.items():
        prompt |= moe_sampler(f"run_{name}", **{**options, **links})
        prompt |= save(f"run_{name}", latent=(f"run_{name}", 0))
    prompt["guider"] = node(
        "WanDuetMoEGuider", model_high=("low", 0), cfg_high=1.0, cfg_low=1.0, boundary=0.0, **TEXT
    )
    prompt["noise"] = node("RandomNoise", noise_seed=1)
    prompt["select"] = node("WanDuetSamplerSelect", sampler="euler")
    prompt["sigmas"] = node(
        "WanDuetSigmas", steps=1, shift=5.0, scheduler="wan", boundary=0.0, denoise=1.0
    )
    prompt["custom"] = node(
        "SamplerCustomAdvanced",
        noise=("noise", 0),
        guider=("guider", 0),
        sampler=("select", 0),
        sigmas=("sigmas", 0),
        latent_image=("latent", 0),
    )
    prompt |= save("custom", latent=("custom", 0))
    result = comfy_server.run(prompt)
    assert result.status == "success", result.error
    said = {name: "\n".join(result.texts(f"run_{name}")) for name in cases}

    assert "4 of 8 steps are those of a low-noise expert." in said["high"]
    assert "4 of 8 steps are those of a high-noise expert." in said["low"]
    assert "are those of" not in said["its_part"] + said["pair"]
    assert "The low-noise expert runs alone" in "\n".join(result.texts("guider"))


@pytest.mark.parametrize("kind", ["picture", "reference"])
def test_conditions_of_another_vae(comfy_server: ComfyServer, kind: str):
    """Core's nodes do not look which VAE they are given."""
    prompt = {**random_text(64, 8), **vae(VAE_22), **image()}
    size = {"width": 64, "height": 64, "length": 5, "batch_size": 1, **TEXT}
    if kind == "picture":
        prompt |= experts(I2V)
        start = {"start_image": ("image", 0)}
        prompt["size"] = node("WanImageToVideo", vae=("vae", 0), **start, **size)
        sides = {"positive": ("size", 0), "negative": ("size", 1), "latent_image": ("size", 2)}
    else:
        prompt |= {**experts(T2V), **empty_latent()}
        key = {"conditioning": ("positive", 0), "key": "time_dim_concat", "channels": 48}
        prompt["other"] = node("WanDuetTestAddCondition", **key)
        sides = {**TEXT, "positive": ("other", 0), "latent_image": ("latent", 0)}
    prompt |= moe_sampler(**sides)
    result = comfy_server.run(prompt | save("never", latent=("sampler", 0)))

    assert result.error is not None
    assert result.error["node_id"] == "sampler"
    text = result.error["exception_message"]
    assert "A condition was made with a different VAE. Got 48 channels in" in text
    assert "wan_2.1_vae.safetensors" in text
