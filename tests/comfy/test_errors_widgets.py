"""Wrong widgets: refused before anything runs, with the node, the input and a remedy."""

from collections.abc import Iterator
from typing import Any

import pytest

from .client import PromptRejected
from .graphs import (
    T2V,
    Prompt,
    experts,
    image_to_video,
    model,
    moe_sampler,
    node,
    prompts,
    random_text,
    save,
    vae,
)
from .server import ComfyServer

pytestmark = pytest.mark.comfy

HIGH, LOW = T2V
LINKS = {"positive": ("positive", 0), "negative": ("negative", 0)}


def good_prompt(**widgets: Any) -> Prompt:
    """Text to video without a text encoder; one step."""
    return {
        **random_text(text_dim=64, tokens=8),
        **experts(),
        **vae(),
        **image_to_video(**LINKS),
        **moe_sampler(steps=1, **widgets),
        **save("good", latent=("sampler", 0)),
    }


def every_choice() -> Prompt:
    """The other nodes with choices, all before the one output."""
    return {
        **model(HIGH),
        **prompts(),
        "decode": node("WanDuetVAEDecode", vae=("vae", 0), samples=("sampler", 0), tiling="auto"),
        "sigmas": node(
            "WanDuetSigmas", steps=1, shift=5.0, scheduler="wan", boundary=0.0, denoise=1.0
        ),
        "select": node("WanDuetSamplerSelect", sampler="euler"),
        "noise": node("RandomNoise", noise_seed=1),
        "guider": node("BasicGuider", model=("model", 0), conditioning=("text", 0)),
        "custom": node(
            "SamplerCustomAdvanced",
            noise=("noise", 0),
            guider=("guider", 0),
            sampler=("select", 0),
            sigmas=("sigmas", 0),
            latent_image=("size", 2),
        ),
    }


@pytest.fixture(scope="module", autouse=True)
def server_still_works(comfy_server: ComfyServer) -> Iterator[None]:
    yield
    result = comfy_server.run(good_prompt())
    assert result.status == "success", result.error


def refusal(server: ComfyServer, prompt: Prompt, node_id: str) -> list[dict[str, Any]]:
    """Queues a prompt that must be refused for one node; returns that node's errors."""
    with pytest.raises(PromptRejected) as caught:
        server.queue(prompt)
    assert caught.value.status == 400
    assert caught.value.error["type"] == "prompt_outputs_failed_validation"
    assert caught.value.node_errors.keys() == {node_id}
    return caught.value.node_errors[node_id]["errors"]


@pytest.mark.parametrize(
    ("widget", "value", "advice"),
    [
        ("length", 6, "Use 5 or 9."),
        ("length", 80, "Use 77 or 81."),
        ("length", 0, "Use 1."),
        ("length", -3, "Use 1."),
        ("length", 100_001, "Got 100001, need at most 8193."),
        ("width", 72, "Use 64 or 80."),
        ("width", 0, "Use 16."),
        ("width", -16, "Use 16."),
        ("width", 100_000, "Got 100000, need at most 8192."),
        ("height", 1081, "Use 1072 or 1088."),
    ],
)
def test_sizes(comfy_server: ComfyServer, widget: str, value: int, advice: str):
    prompt = good_prompt()
    prompt["size"]["inputs"][widget] = value
    errors = refusal(comfy_server, prompt, "size")

    assert {error["type"] for error in errors} == {"custom_validation_failed"}
    # Core repeats the one message for every input that the check looked at.
    texts = {error["details"].split(" - ", 1)[1] for error in errors}
    assert len(texts) == 1
    text = texts.pop()
    assert f"Got {value}, need" in text
    assert advice in text


@pytest.mark.parametrize(
    ("high", "low", "text"),
    [
        (HIGH, HIGH, f"Both experts are the same file. Got {HIGH} twice"),
        (LOW, HIGH, "These look swapped"),
        (HIGH, "toy_i2v_high_noise.safetensors", "Both experts are high-noise files"),
        ("toy_i2v_low_noise.safetensors", LOW, "Both experts are low-noise files"),
        ("gone.safetensors", LOW, "The file 'gone.safetensors' was not found"),
        (HIGH, "", "The file '' was not found"),
    ],
)
def test_pairs_by_name(comfy_server: ComfyServer, high: str, low: str, text: str):
    prompt = good_prompt() | experts((high, low))
    errors = refusal(comfy_server, prompt, "experts")

    assert {error["type"] for error in errors} == {"custom_validation_failed"}
    named = {error["extra_info"]["input_name"] for error in errors}
    assert named == {"high_noise_model", "low_noise_model"}
    assert all(text in error["details"] for error in errors)
    assert all("Got " in error["details"] and "need " in error["details"] for error in errors)


@pytest.mark.parametrize(
    ("node_id", "widget", "value", "kind"),
    [
        ("size", "batch_size", "many", "invalid_input_type"),
        ("size", "batch_size", 0, "value_smaller_than_min"),
        ("sampler", "boundary", 1.5, "value_bigger_than_max"),
        ("sampler", "boundary", -2, "value_smaller_than_min"),
        ("sampler", "steps", -5, "value_smaller_than_min"),
        ("sampler", "steps", 100_000, "value_bigger_than_max"),
        ("sampler", "cfg_high", -2, "value_smaller_than_min"),
        ("sampler", "shift", 1e6, "value_bigger_than_max"),
        ("sampler", "denoise", 1.1, "value_bigger_than_max"),
        ("sampler", "start_at_step", -1, "value_smaller_than_min"),
        ("sampler", "seed", -1, "value_smaller_than_min"),
    ],
)
def test_ranges(comfy_server: ComfyServer, node_id: str, widget: str, value: Any, kind: str):
    prompt = good_prompt()
    prompt[node_id]["inputs"][widget] = value
    errors = refusal(comfy_server, prompt, node_id)

    assert kind in {error["type"] for error in errors}
    assert widget in {error["extra_info"]["input_name"] for error in errors}


@pytest.mark.parametrize(
    ("node_id", "widget", "text"),
    [
        ("model", "model_name", "'nonsense' was not found. Got a name that is not in models/d"),
        ("vae", "vae_name", "'nonsense' was not found. Got a name that is not in models/vae, "),
        ("clip", "text_encoder_name", "Got a name that is not in models/text_encoders, "),
        ("vae", "precision", "Got 'nonsense', need one of: auto, bf16, fp16, fp32. Choose"),
        (
            "model",
            "precision",
            "need one of: auto, bf16, fp16, fp32, fp8, int8, nvfp4. Choose one of",
        ),
        ("model", "attention", "Got 'nonsense', need one of: auto, sdpa"),
        ("sampler", "sampler", "Got 'nonsense', need one of: unipc, dpm++, euler,"),
        ("sampler", "scheduler", "Got 'nonsense', need one of: wan, simple,"),
        ("sampler", "add_noise", "Got 'nonsense', need one of: enable, disable. Choose"),
        ("decode", "tiling", "Got 'nonsense', need one of: auto, off, on. Choose"),
        ("sigmas", "scheduler", "Got 'nonsense', need one of: wan,"),
        ("select", "sampler", "Got 'nonsense', need one of: unipc,"),
    ],
)
def test_choices(comfy_server: ComfyServer, node_id: str, widget: str, text: str):
    prompt = {**good_prompt(), **every_choice()}
    prompt[node_id]["inputs"][widget] = "nonsense"
    prompt |= save("good", latent=("custom", 0), image=("decode", 0))
    errors = refusal(comfy_server, prompt, node_id)

    assert widget in {error["extra_info"]["input_name"] for error in errors}
    assert len({error["details"].split(" - ", 1)[1] for error in errors}) == 1
    assert all(text in error["details"] for error in errors), errors


@pytest.mark.parametrize(
    ("node_id", "widget", "value", "text"),
    [
        ("size", "length", 6, "The number of frames cannot be used. Got 6, need 4n+1. Use 5 or 9."),
        ("size", "width", 72, "The width cannot be used. Got 72, need a multiple of 16."),
        ("sampler", "boundary", 1.5, "The expert boundary cannot be used. Got 1.5"),
    ],
)
def test_values_of_other_nodes_are_checked_when_they_are_known(
    comfy_server: ComfyServer, node_id: str, widget: str, value: float, text: str
):
    prompt = good_prompt()
    kind = "PrimitiveInt" if isinstance(value, int) else "PrimitiveFloat"
    prompt["number"] = node(kind, value=value)
    prompt[node_id]["inputs"][widget] = ["number", 0]
    result = comfy_server.run(prompt)

    assert result.error is not None
    assert result.error["node_id"] == node_id
    assert text in result.error["exception_message"]


def test_good_values_of_other_nodes_pass(comfy_server: ComfyServer):
    prompt = good_prompt()
    for widget, value in (("width", 80), ("height", 64), ("length", 9)):
        prompt[widget] = node("PrimitiveInt", value=value)
        prompt["size"]["inputs"][widget] = [widget, 0]
    result = comfy_server.run(prompt)

    assert result.status == "success", result.error
