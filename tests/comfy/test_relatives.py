"""Core's own Wan family under our sampler: VACE, Fun Control, Camera, S2V and Animate pairs."""

from typing import Any

import pytest

from .graphs import I2V, T2V, Prompt, experts, model, moe_sampler, node, random_text, save, vae
from .server import ComfyServer
from .stock import ROUNDING, empty_latent, ksampler_advanced, relative, run_to_tensors, shifted

pytestmark = pytest.mark.comfy

SIZE = {"width": 64, "height": 48, "length": 9}
TEXT = {"positive": ("positive", 0), "negative": ("negative", 0)}
IMAGE = {"image": node("WanDuetTestImage", seed=3, width=64, height=48, count=1, channels=3)}
VIDEO = {"video": node("WanDuetTestImage", seed=4, width=64, height=48, count=9, channels=3)}
NODES: dict[str, tuple[str, dict[str, Any]]] = {
    "vace": ("WanVaceToVideo", {"strength": 1.0, "control_video": ("video", 0)}),
    "fun_control": (
        "Wan22FunControlToVideo",
        {"ref_image": ("image", 0), "control_video": ("video", 0)},
    ),
    "camera": (
        "WanCameraImageToVideo",
        {"start_image": ("image", 0), "camera_conditions": ("camera", 0)},
    ),
    "s2v": ("WanSoundImageToVideo", {"ref_image": ("image", 0), "control_video": ("video", 0)}),
    "animate": (
        "WanAnimateToVideo",
        {
            "reference_image": ("image", 0),
            "pose_video": ("video", 0),
            "continue_motion_max_frames": 5,
            "video_frame_offset": 0,
        },
    ),
}


def conditions(kind: str, **extra: Any) -> Prompt:
    """Core's node of a kind: ("size", 0..2)."""
    class_type, options = NODES[kind]
    links = {"vae": ("vae", 0), "batch_size": 1, **TEXT, **SIZE}
    camera = node("WanCameraEmbedding", camera_pose="Zoom In", speed=1.0, **SIZE)
    prompt = {**random_text(), **vae(), **IMAGE, **VIDEO}
    if kind == "camera":
        prompt["camera"] = camera
    return {**prompt, "size": node(class_type, **{**links, **options, **extra})}


@pytest.mark.parametrize("kind", list(NODES))
def test_both_experts_equal_two_samplers_of_core(comfy_server: ComfyServer, kind: str):
    prompt = conditions(kind)
    for number, side in enumerate(("high", "low")):
        prompt[side] = node("WanDuetTestRelative", kind=kind, seed=number)
        prompt |= shifted((side, 0), f"{side}_8", 8.0)
    links = {"positive": ("size", 0), "negative": ("size", 1), "latent_image": ("size", 2)}
    pair = {"model_high": ("high", 0), "model_low": ("low", 0), "boundary": 0.875}
    how = {"steps": 8, "shift": 8.0, "cfg_high": 2.0, "cfg_low": 1.0, "scheduler": "wan"}
    prompt |= moe_sampler("mine", **links, **pair, **how)
    first = {"end_at_step": 5, "return_with_leftover_noise": "enable", "cfg": 2.0, "steps": 8}
    prompt |= ksampler_advanced(("high_8", 0), "first", **{**first, **links})
    rest = {"start_at_step": 5, "add_noise": "disable", "steps": 8, "cfg": 1.0}
    prompt |= ksampler_advanced(
        ("low_8", 0), "split", **{**links, **rest, "latent_image": ("first", 0)}
    )
    saved = run_to_tensors(comfy_server, prompt, {"mine": ("mine", 0), "split": ("split", 0)})

    assert saved["mine"].std() > 0.1
    assert relative(saved["mine"], saved["split"]) <= ROUNDING

    file = f"relative_{kind}_0.safetensors"
    refused = comfy_server.run({**model(file), **empty_latent(), **run_with_core("model")})
    assert refused.error is not None
    assert refused.error["node_id"] == "model"
    assert "load this one with ComfyUI's 'Load Diffusion Model'" in message(refused.error)


def test_experts_of_different_relatives_are_refused(comfy_server: ComfyServer):
    prompt = conditions("vace")
    prompt["high"] = node("WanDuetTestRelative", kind="vace", seed=0)
    prompt["low"] = node("WanDuetTestRelative", kind="s2v", seed=1)
    links = {"positive": ("size", 0), "negative": ("size", 1), "latent_image": ("size", 2)}
    prompt |= moe_sampler("mine", model_high=("high", 0), model_low=("low", 0), **links)
    result = comfy_server.run(prompt | save("never", latent=("mine", 0)))

    assert result.error is not None
    assert "don't belong together. Got WAN21_Vace" in message(result.error)


def run_with_core(source: str) -> Prompt:
    """Samples one step, so that a MODEL is needed."""
    steps = {"steps": 1, "latent_image": ("latent", 0)}
    sampler = ksampler_advanced((source, 0), "never", **steps)
    return {**random_text(), **sampler, **save("never", latent=("never", 0))}


def message(error: dict[str, Any]) -> str:
    return error["exception_message"]


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("vace_frames", "a VACE control video"),
        ("camera_conditions", "camera poses"),
        ("audio_embed", "speech or sound"),
        ("reference_latents", "a reference image"),
        ("context_latents", "source images or videos of Bernini"),
        ("pose_video_latent", "a pose video"),
    ],
)
@pytest.mark.parametrize("at", ["sampler", "guider"])
def test_conditions_that_our_models_do_not_read(
    comfy_server: ComfyServer, key: str, said: str, at: str
):
    prompt = {**random_text(64, 8), **experts(T2V), **empty_latent()}
    prompt["condition"] = node("WanDuetTestAddCondition", conditioning=("positive", 0), key=key)
    sides = {"positive": ("positive", 0), "negative": ("condition", 0)}
    if at == "sampler":
        prompt |= moe_sampler(latent_image=("latent", 0), **sides)
        prompt |= save("never", latent=("sampler", 0))
    else:
        pair = {"model_high": ("experts", 0), "model_low": ("experts", 1), "boundary": 0.0}
        prompt["guider"] = node("WanDuetMoEGuider", cfg_high=1.0, cfg_low=1.0, **pair, **sides)
        prompt["select"] = node("WanDuetSamplerSelect", sampler="euler")
        prompt["noise"] = node("RandomNoise", noise_seed=1)
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
        prompt |= save("never", latent=("custom", 0))
    result = comfy_server.run(prompt)

    assert result.error is not None
    assert result.error["node_id"] == at
    assert f"Got {said}" in message(result.error)
    assert key in message(result.error)
    assert "'Load Diffusion Model'" in message(result.error)


def test_core_nodes_whose_conditions_are_not_read(comfy_server: ComfyServer):
    """VACE on T2V, a camera on I2V: as the packs' workflows have them."""
    for kind, files in (("vace", T2V), ("camera", I2V)):
        prompt = {**conditions(kind), **random_text(64, 8), **experts(files)}
        links = {"positive": ("size", 0), "negative": ("size", 1), "latent_image": ("size", 2)}
        prompt |= moe_sampler(**links) | save("never", latent=("sampler", 0))
        result = comfy_server.run(prompt)

        assert result.error is not None
        assert "does not read a condition" in message(result.error)


def test_clip_vision_is_said_to_do_nothing(comfy_server: ComfyServer):
    key = {"conditioning": ("positive", 0), "key": "clip_vision_output"}
    prompt = {**random_text(64, 8), **experts(T2V), **empty_latent()}
    prompt["condition"] = node("WanDuetTestAddCondition", **key)
    prompt["late"] = node("PrimitiveInt", value=100)  # nothing is sampled
    sides = {"positive": ("condition", 0), "negative": ("negative", 0)}
    prompt |= moe_sampler(latent_image=("latent", 0), start_at_step=("late", 0), **sides)
    result = comfy_server.run(prompt | save("clip", latent=("sampler", 0)))

    assert result.status == "success", result.error
    assert any("CLIP vision has no effect" in text for text in result.texts("sampler"))
