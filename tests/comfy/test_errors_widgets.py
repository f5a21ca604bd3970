"""Wrong widgets: refused before anything runs, each with one error, at its own input."""

from collections.abc import Iterator
from typing import Any

import pytest

from .client import PromptRejected
from .graphs import (
    T2V,
    Prompt,
    experts,
    image_to_video,
    memory,
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
        "cached": node(
            "WanDuetStepCache",
            model=("model", 0),
            method="auto",
            threshold=0.0,
            start_percent=0.15,
            end_percent=0.95,
        ),
        "compiled": node("WanDuetCompile", model=("cached", 0), mode="default"),
        "guider": node("BasicGuider", model=("compiled", 0), conditioning=("text", 0)),
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


def refusal(server: ComfyServer, prompt: Prompt, node_id: str) -> dict[str, Any]:
    """Queues a prompt that must be refused for one input; returns the error."""
    with pytest.raises(PromptRejected) as caught:
        server.queue(prompt)
    assert caught.value.status == 400
    assert caught.value.error["type"] == "prompt_outputs_failed_validation"
    assert caught.value.node_errors.keys() == {node_id}
    (error,) = caught.value.node_errors[node_id]["errors"]
    return error


@pytest.mark.parametrize(
    ("node_id", "widget", "value", "kind", "text"),
    [
        ("size", "length", 6, "smaller_than_min", "or not 4n+1. Use 5 or 9."),
        ("size", "length", 80, "smaller_than_min", "Value 80 smaller than min of 1, or not 4n+1. "),
        ("size", "length", 0, "smaller_than_min", "Use 1."),
        ("size", "length", -3, "smaller_than_min", "Use 1."),
        ("size", "length", 100_001, "bigger_than_max", "max of 8193"),
        ("size", "width", 72, "smaller_than_min", "or not a multiple of 16. Use 64 or 80."),
        ("size", "width", 100, "smaller_than_min", "Use 96 or 112."),
        ("size", "width", 0, "smaller_than_min", "Use 16."),
        ("size", "width", -16, "smaller_than_min", "Use 16."),
        ("size", "width", 100_000, "bigger_than_max", "max of 8192"),
        ("size", "height", 1081, "smaller_than_min", "Use 1072 or 1088."),
        ("size", "batch_size", 0, "smaller_than_min", "min of 1"),
        ("sampler", "boundary", 1.5, "bigger_than_max", "max of 1.0"),
        ("sampler", "steps", 100_000, "bigger_than_max", "max of 1000"),
        ("sampler", "shift", 1e6, "bigger_than_max", "max of 100.0"),
        ("sampler", "denoise", 1.1, "bigger_than_max", "max of 1.0"),
        ("sampler", "start_at_step", -1, "smaller_than_min", "min of 0"),
        ("sampler", "seed", -1, "smaller_than_min", "min of 0"),
    ],
)
def test_numbers(
    comfy_server: ComfyServer, node_id: str, widget: str, value: float, kind: str, text: str
):
    prompt = good_prompt()
    prompt[node_id]["inputs"][widget] = value
    error = refusal(comfy_server, prompt, node_id)

    assert (error["type"], error["details"]) == (f"value_{kind}", widget)
    assert text in error["message"]


def test_what_is_no_number(comfy_server: ComfyServer):
    prompt = good_prompt()
    prompt["size"]["inputs"]["batch_size"] = "many"
    error = refusal(comfy_server, prompt, "size")

    assert error["type"] == "invalid_input_type"
    assert error["extra_info"]["input_name"] == "batch_size"


NAN = float("nan")
NO_LINK = "smaller than min of a link: connect a node that gives it"


@pytest.mark.parametrize(
    ("node_id", "widget", "value", "kind", "text"),
    [
        ("sampler", "denoise", NAN, "value_smaller_than_min", "Value nan smaller than min of 0.0"),
        ("sampler", "shift", NAN, "value_smaller_than_min", "min of "),
        ("sampler", "cfg_low", NAN, "value_smaller_than_min", "min of -1.0"),
        ("sampler", "boundary", float("inf"), "value_bigger_than_max", "max of 1.0"),
        ("sampler", "seed", NAN, "invalid_input_type", "convert an input value to a INT"),
        ("sampler", "seed", None, "invalid_input_type", "convert an input value to a INT"),
        ("sampler", "sampler", None, "custom_validation_failed", "validation failed"),
        ("sampler", "model_high", 5, "value_smaller_than_min", f"Value 5 {NO_LINK}"),
        ("sampler", "model_high", 5.5, "value_smaller_than_min", f"Value 5.5 {NO_LINK}"),
        ("sampler", "model_high", None, "value_smaller_than_min", f"Value None {NO_LINK}"),
        ("sampler", "positive", "text", "value_smaller_than_min", f"Value text {NO_LINK}"),
        ("sampler", "latent_image", {"samples": 1}, "value_smaller_than_min", NO_LINK),
        ("memory", "vram_budget_gb", NAN, "value_smaller_than_min", "min of 0.0"),
        ("memory", "pinned_ram_gb", NAN, "value_smaller_than_min", "min of -1.0"),
        ("experts", "memory", 5, "value_smaller_than_min", f"Value 5 {NO_LINK}"),
        ("experts", "memory", "all", "value_smaller_than_min", NO_LINK),
        ("experts", "high_noise_model", None, "custom_validation_failed", "validation failed"),
        ("experts", "low_noise_model", None, "custom_validation_failed", "validation failed"),
        ("vae", "vae_name", None, "custom_validation_failed", "validation failed"),
        ("experts", "low_noise_model", 5, "custom_validation_failed", "validation failed"),
        ("vae", "vae_name", 5, "custom_validation_failed", "validation failed"),
        ("size", "vae", True, "value_smaller_than_min", NO_LINK),
        ("size", "width", "wide", "invalid_input_type", "convert an input value to a INT"),
    ],
)
def test_what_is_no_value_at_all(
    comfy_server: ComfyServer, node_id: str, widget: str, value: Any, kind: str, text: str
):
    prompt = good_prompt() | memory()
    prompt["experts"]["inputs"]["memory"] = ["memory", 0]
    prompt[node_id]["inputs"][widget] = value
    error = refusal(comfy_server, prompt, node_id)

    assert error["type"] == kind
    assert error["extra_info"]["input_name"] == widget
    assert text in error["message"]


@pytest.mark.parametrize(
    ("node_id", "widget", "value", "text"),
    [
        ("vae", "vae_name", None, "Got null, need one of its choices."),
        ("sampler", "steps", 4.5, "Got 4.5, need a whole number."),
        ("sampler", "steps", True, "Got true, need a whole number."),
        ("sampler", "denoise", True, "Got true, need a number."),
        ("sampler", "latent_image", NAN, "Got NaN, need a link."),
        ("text", "positive", None, "Got null, need text."),
        ("text", "positive", {"a": "b" * 99}, '{"a": "bbbb'),
        ("lora", "on", "false", 'Got "false", need true or false.'),
        ("sampler", "model_high", ["nobody", 0], 'Got ["nobody", 0], need the id of a node'),
        ("sampler", "positive", ["size", 3], "is linked to nothing."),
        ("sampler", "model_low", [], "model_low is linked to nothing. Got [], need the id of a"),
    ],
)
def test_what_comfyui_would_make_something_else_of(
    comfy_server: ComfyServer, node_id: str, widget: str, value: Any, text: str
):
    links = {"model_high": ("experts", 0), "model_low": ("experts", 1)}
    loras = {f"lora_{kind}": "none" for kind in ("high", "low")}
    strengths = {f"strength_{kind}": 1.0 for kind in ("high", "low")}
    lora = node("WanDuetLoraPair", **links, **loras, **strengths, on=True)
    models = {"model_high": ("lora", 0), "model_low": ("lora", 1)}
    prompt = {**good_prompt(**models), **prompts(), "lora": lora}
    prompt["size"]["inputs"] |= {"positive": ["text", 0], "negative": ["text", 1]}
    prompt[node_id]["inputs"][widget] = value
    error = refusal(comfy_server, prompt, node_id)

    assert error["extra_info"]["input_name"] == widget
    assert text in error["details"]
    assert len(error["details"]) < 250


@pytest.mark.parametrize("value", [4.0, "4", {"__value__": 4}])
def test_what_means_the_same_passes(comfy_server: ComfyServer, value: Any):
    prompt = good_prompt()
    prompt["sampler"]["inputs"]["steps"] = value
    answer = comfy_server.post("/wanduet/check", {"prompt": prompt})
    assert answer["problems"] == []


def test_a_tiny_denoise(comfy_server: ComfyServer):
    result = comfy_server.run(good_prompt(denoise=1e-308))
    assert result.error is not None
    assert result.error["node_id"] == "sampler"
    assert "The denoise cannot be used. Got 1e-308" in result.error["exception_message"]


def test_nothing_in_the_place_of_an_optional_link(comfy_server: ComfyServer):
    prompt = good_prompt()
    prompt["experts"]["inputs"]["memory"] = None
    result = comfy_server.run(prompt)
    assert result.status == "success", result.error


def test_two_wrong_values_are_two_errors(comfy_server: ComfyServer):
    prompt = good_prompt()
    prompt["size"]["inputs"] |= {"width": 100, "length": 80}
    with pytest.raises(PromptRejected) as caught:
        comfy_server.queue(prompt)
    errors = caught.value.node_errors["size"]["errors"]
    assert sorted(error["details"] for error in errors) == ["length", "width"]


def test_low_noise_file_that_is_not_there(comfy_server: ComfyServer):
    error = refusal(comfy_server, good_prompt() | experts((HIGH, "")), "experts")

    assert error["type"] == "custom_validation_failed"
    assert error["extra_info"]["input_name"] == "low_noise_model"
    assert "The file '' was not found. Got a name that is not in models/d" in error["details"]


@pytest.mark.parametrize(
    ("node_id", "widget", "choices"),
    [
        ("experts", "high_noise_model", ""),
        ("experts", "precision", "['auto', 'bf16', 'fp16', 'fp32', 'fp8', 'int8', 'nvfp4']"),
        ("experts", "attention", "['auto', 'sdpa', "),
        ("vae", "precision", "['auto', 'bf16', 'fp16', 'fp32']"),
        ("model", "precision", "['auto', 'bf16', 'fp16', 'fp32', 'fp8', 'int8', 'nvfp4']"),
        ("model", "attention", "['auto', 'sdpa', "),
        ("sampler", "sampler", "(list of length "),
        ("sampler", "scheduler", "['auto', 'wan', 'simple', "),
        ("sampler", "add_noise", "['enable', 'disable']"),
        ("sampler", "return_with_leftover_noise", "['disable', 'enable']"),
        ("size", "size_mode", "['crop to size', "),
        ("decode", "tiling", "['auto', 'off', 'on']"),
        ("sigmas", "scheduler", "['wan', "),
        ("sigmas", "sampler", "(list of length "),
        ("select", "sampler", "(list of length "),
        ("cached", "method", "['auto', "),
        ("compiled", "mode", "['default', "),
    ],
)
def test_choices(comfy_server: ComfyServer, node_id: str, widget: str, choices: str):
    prompt = {**good_prompt(), **every_choice()}
    prompt[node_id]["inputs"][widget] = "nonsense"
    prompt |= save("good", latent=("custom", 0), image=("decode", 0))
    error = refusal(comfy_server, prompt, node_id)

    assert error["type"] == "value_not_in_list"
    assert error["extra_info"]["input_name"] == widget
    assert error["details"].startswith(f"{widget}: 'nonsense' not in ")
    assert choices in error["details"]


@pytest.mark.parametrize(
    ("node_id", "widget"),
    [("model", "model_name"), ("vae", "vae_name"), ("clip", "text_encoder_name")],
)
def test_files(comfy_server: ComfyServer, node_id: str, widget: str):
    prompt = {**good_prompt(), **every_choice()}
    prompt[node_id]["inputs"][widget] = "nonsense"
    prompt |= save("good", latent=("custom", 0), image=("decode", 0))
    error = refusal(comfy_server, prompt, node_id)

    assert error["extra_info"]["input_name"] == widget
    assert "'nonsense' was not found. Got a name that is not in models/" in error["details"]


def test_choices_of_other_nodes_are_taken(comfy_server: ComfyServer):
    """Links from lists of choices, as packs have them."""
    prompt = good_prompt()
    prompt["choice"] = node("WanDuetTestChoice", value="euler")
    prompt["sampler"]["inputs"]["sampler"] = ["choice", 0]
    result = comfy_server.run(prompt)

    assert result.status == "success", result.error


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
