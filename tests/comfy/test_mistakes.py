"""Mistakes that widgets, links and file headers show: where, when, and in which words.

When is always before the queue: one error, at the one input to change.
"""

from typing import Any

import pytest

from .client import PromptRejected
from .graphs import (
    I2V,
    T2V,
    TI2V,
    VAE_21,
    VAE_22,
    Prompt,
    experts,
    image_to_video,
    model,
    moe_sampler,
    node,
    random_text,
    save,
    vae,
)
from .server import ComfyServer

pytestmark = pytest.mark.comfy

HIGH, LOW = T2V
LINKS = {"positive": ("positive", 0), "negative": ("negative", 0)}
IMAGE = {"start_image": ("image", 0)}
TWO = {"model_high": ("high", 0), "model_low": ("low", 0)}
ONE = {"model_high": ("model", 0), "model_low": None}
ALONE = {"model_high": ("model", 0), "model_low": None, "end_at_step": 10000}


def prompt(
    *parts: Prompt, size: Any = None, wan_vae: str = VAE_21, save_it: bool = True, **sampler: Any
) -> Prompt:
    """Text to video of one step; parts and options make it wrong."""
    nodes = {
        **random_text(text_dim=64, tokens=8),
        **vae(wan_vae),
        "image": node("WanDuetTestImage", seed=1, width=64, height=64, count=1, channels=3),
        **image_to_video(**{**LINKS, "height": 64, **(size or {})}),
        **moe_sampler(**{"steps": 1, **sampler}),
    }
    for part in parts:
        nodes |= part
    return nodes | save("never", latent=("sampler", 0)) if save_it else nodes


def pair(high: str, low: str, *extra: Prompt, **sampler: Any) -> Prompt:
    """Both experts of loaders of one model."""
    return prompt(model(high, "high"), model(low, "low"), *extra, **{**TWO, **sampler})


def five_b(**options: Any) -> Prompt:
    """TI2V-5B with its VAE."""
    return prompt(model(TI2V), **{"wan_vae": VAE_22, **ONE, **options})


def decoded(wrong: str, right: str = VAE_21) -> Prompt:
    """Decodes with another VAE than the latent's."""
    decode = {"vae": ("other", 0), "samples": ("sampler", 0), "tiling": "auto"}
    nodes = prompt(experts(), wan_vae=right) if right == VAE_21 else five_b()
    nodes |= vae(wrong, "other") | {"decode": node("WanDuetVAEDecode", **decode)}
    return nodes | save("never", image=("decode", 0))


def guided(**options: Any) -> Prompt:
    """SamplerCustomAdvanced with our guider and sigmas."""
    guide = {"cfg_high": 1.0, "cfg_low": 1.0, "boundary": 0.0, **LINKS}
    links = {"model_high": ("experts", 0), "model_low": ("experts", 1)}
    sigmas = {"steps": 1, "shift": 5.0, "scheduler": "wan", "boundary": 0.0, "denoise": 1.0}
    return prompt(
        experts(),
        {
            "guider": node("WanDuetMoEGuider", **{**guide, **links, **options.get("guider", {})}),
            "sigmas": node("WanDuetSigmas", **{**sigmas, **options.get("sigmas", {})}),
            "select": node("WanDuetSamplerSelect", sampler="euler"),
            "noise": node("RandomNoise", noise_seed=1),
            "sampler": node(
                "SamplerCustomAdvanced",
                noise=("noise", 0),
                guider=("guider", 0),
                sampler=("select", 0),
                sigmas=("sigmas", 0),
                latent_image=("size", 2),
            ),
        },
    )


CROSSED = {"model_high": ("experts", 1), "model_low": ("experts", 0)}
TWICE = {"model_high": ("experts", 0), "model_low": ("experts", 0)}
LORA = node(
    "LoraLoaderModelOnly", model=("experts", 0), lora_name="toy_lora.safetensors", strength_model=1
)
BOTH_LORA = {"lora": LORA, "again": LORA}

CASES: dict[str, tuple[Prompt, str, str, str]] = {
    "crossed links": (prompt(experts(), **CROSSED), "sampler", "model_high", "are crossed."),
    "crossed loaders": (pair(LOW, HIGH), "sampler", "model_high", "Swap the two links."),
    "swapped files": (prompt(experts((LOW, HIGH))), "experts", "high_noise_model", "look swapped"),
    "one link twice": (prompt(experts(), **TWICE), "sampler", "model_low", "connected twice."),
    "one file twice": (pair(HIGH, HIGH), "sampler", "model_low", f"twice. Got {HIGH} at"),
    "low file twice": (pair(LOW, LOW), "sampler", "model_high", "Connect the other expert here"),
    "equal LoRAs": (
        prompt(experts(), BOTH_LORA, model_high=("lora", 0), model_low=("again", 0)),
        *("sampler", "model_low", "The same expert is connected twice."),
    ),
    "file twice": (prompt(experts((HIGH, HIGH))), "experts", "low_noise_model", "the same file."),
    "file twice, low": (prompt(experts((LOW, LOW))), "experts", "high_noise_model", "same file."),
    "two low files": (
        prompt(experts((I2V[1], LOW))),
        *("experts", "low_noise_model", "These two files don't belong together. Got toy_i2v_low"),
    ),
    "low of another model": (
        prompt(experts((HIGH, I2V[1]))),
        *("experts", "low_noise_model", "both of T2V-A14B or both of I2V-A14B"),
    ),
    "low of another loader": (pair(HIGH, I2V[1]), "sampler", "model_low", "don't belong together"),
    "5B as an expert": (prompt(experts((HIGH, TI2V))), "experts", "low_noise_model", "TI2V-5B has"),
    "low forgotten": (prompt(model(HIGH), **ALONE), "sampler", "model_low", "low-noise expert is"),
    "5B with an expert": (
        pair(TI2V, LOW, wan_vae=VAE_22),
        *("sampler", "model_low", "Disconnect this input, or"),
    ),
    "expert with 5B": (pair(HIGH, TI2V), "sampler", "model_low", "TI2V-5B has one model for all"),
    "low for the first steps": (
        prompt(experts(), model_start=("experts", 1)),
        *("sampler", "model_start", "The model for the first steps does not fit."),
    ),
    "start after end": (
        prompt(experts(), start_at_step=3, end_at_step=2, steps=4),
        *("sampler", "start_at_step", "No step is left to run. Got steps from 3 to 2"),
    ),
    "end at 0": (
        prompt(experts(), start_at_step=1, end_at_step=0),
        *("sampler", "end_at_step", "No step is left"),
    ),
    "start after the last step": (
        prompt(experts(), start_at_step=9, steps=8),
        *("sampler", "start_at_step", "Got a start at step 9 of 8, need at most 8."),
    ),
    "start after the official last step": (
        prompt(experts(), start_at_step=41, steps=0),
        *("sampler", "start_at_step", "Got a start at step 41 of 40, need at most 40."),
    ),
    "denoise 0": (prompt(experts(), denoise=0.0), "sampler", "denoise", "Nothing would be sampled"),
    "negative steps": (prompt(experts(), steps=-5), "sampler", "steps", "Got -5, need a number"),
    "negative cfg": (prompt(experts(), cfg_high=-0.5), "sampler", "cfg_high", "Got -0.5, need"),
    "negative low cfg": (prompt(experts(), cfg_low=-2.0), "sampler", "cfg_low", "be negative"),
    "negative shift": (prompt(experts(), shift=-0.5), "sampler", "shift", "shift cannot be neg"),
    "negative boundary": (prompt(experts(), boundary=-0.9), "sampler", "boundary", "Got -0.9"),
    "T2V with an image": (
        prompt(experts(), size=IMAGE),
        *("sampler", "model_high", "cannot start from an image. Got T2V"),
    ),
    "I2V without an image": (prompt(experts(I2V)), "size", "start_image", "needs an image. Got"),
    "5B VAE with A14B": (
        prompt(experts(), wan_vae=VAE_22),
        *("size", "vae", "Load the VAE wan_2.1_vae.safetensors."),
    ),
    "5B VAE with I2V": (prompt(experts(I2V), wan_vae=VAE_22, size=IMAGE), "size", "vae", "Got one"),
    "2.1 VAE with 5B": (five_b(wan_vae=VAE_21), "size", "vae", "the VAE wan2.2_vae.safetensors."),
    "5B VAE to decode": (decoded(VAE_22), "decode", "vae", "Got a VAE for 48 channels, need one"),
    "5B VAE to join clips": (
        {
            **decoded(VAE_22),
            "decode": node(
                "WanDuetJoinClips",
                vae=("other", 0),
                clip_1=("sampler", 0),
                blend="cut",
                match_colours=False,
                overlap=1,
                loop=False,
                fps=0.0,
            ),
            "save_never": node(
                "SaveVideo", video=("decode", 0), filename_prefix="x", format="auto", codec="auto"
            ),
        },
        *("decode", "vae", "Got a VAE for 48 channels, need one"),
    ),
    "2.1 VAE to decode": (decoded(VAE_21, VAE_22), "decode", "vae", "Got a VAE for 16 channels"),
    "end image for 5B": (
        five_b(size={"end_image": ("image", 0)}),
        *("size", "end_image", "TI2V-5B cannot end with a given image."),
    ),
    "5B width": (five_b(size={"width": 80}), "size", "width", "Got 80, need a multiple of 32."),
    "5B height": (five_b(size={"height": 80}), "size", "height", "The height cannot be used."),
    "shape of no image": (
        prompt(experts(), size={"size": "480p shape of the image"}),
        *("size", "size", "There is no image to take the shape from"),
    ),
    "guider, twice": (guided(guider=TWICE), "guider", "model_low", "The same expert is connected"),
    "sigmas, denoise 0": (guided(sigmas={"denoise": 0.0}), "sigmas", "denoise", "Nothing would"),
}
"""What is wrong: the prompt, and the node, the input and the words of the refusal."""


def refused(server: ComfyServer, nodes: Prompt) -> tuple[str, str, str]:
    """Queues a prompt that must be refused; returns the node, the input and the sentence."""
    with pytest.raises(PromptRejected) as caught:
        server.queue(nodes)
    assert caught.value.status == 400
    assert caught.value.error["type"] == "prompt_outputs_failed_validation"
    ((node_id, found),) = caught.value.node_errors.items()
    (error,) = found["errors"]
    assert found["class_type"] == nodes[node_id]["class_type"]
    assert error["type"] == "custom_validation_failed"
    name = error["extra_info"]["input_name"]
    return node_id, name, error["details"].removeprefix(f"{name} - ")


@pytest.mark.parametrize("case", CASES)
def test_where_when_and_words(comfy_server: ComfyServer, case: str):
    nodes, node_id, name, words = CASES[case]
    assert refused(comfy_server, nodes)[:2] == (node_id, name)
    text = refused(comfy_server, nodes)[2]

    assert words in text
    assert " Got " in text
    assert ", need" in text or " needs " in text
    assert text.endswith(".")
    # The editor asks while one edits, and gets the same answer.
    answer = comfy_server.post("/wanduet/check", {"prompt": nodes})
    assert answer["problems"] == [{"node_id": node_id, "input": name, "message": text}]


def test_what_has_no_effect_is_not_refused(comfy_server: ComfyServer):
    """A wrong sampler that nothing is saved from, beside one that is right."""
    nodes = {**prompt(experts()), **moe_sampler("unused", denoise=0.0)}
    result = comfy_server.run(nodes)

    assert result.status == "success", result.error
    assert result.messages[0].type != "wanduet.refused"


def test_what_cannot_be_known_yet_is_not_refused(comfy_server: ComfyServer):
    nodes = prompt(experts(), denoise=("number", 0), start_at_step=("whole", 0))
    nodes |= {
        "number": node("PrimitiveFloat", value=1.0),
        "whole": node("PrimitiveInt", value=0),
    }
    result = comfy_server.run(nodes)

    assert result.status == "success", result.error


def merged(first: Any, second: Any) -> Prompt:
    """Two models that links decide, of one file at both inputs."""
    loras = {
        name: node("LoraLoaderModelOnly", model=("model", 0), lora_name=lora, strength_model=1.0)
        for name, lora in (("high", first), ("low", second))
    }
    return prompt(model(HIGH), loras, **TWO)


RIGHT: dict[str, Prompt] = {
    "what links tell apart": merged(("name", 0), ("other", 0)),
    "no image by null": prompt(experts(), size={"start_image": None, "end_image": None}),
    "no low-noise expert by null": prompt(model(TI2V), wan_vae=VAE_22, **ONE),
    "a switch at the last step": prompt(experts(), steps=8, start_at_step=8),
    "what only the run knows": prompt(experts(), steps=["unknown", 0], cfg_high=["unknown", 0]),
    "the fourth output of one type": prompt(experts(), steps=("many", 3)),
    "nothing before the switch": prompt(experts(), steps=8, start_at_step=0, end_at_step=0),
}
"""What could be taken for a mistake."""


@pytest.mark.parametrize("case", RIGHT)
def test_what_is_no_mistake(comfy_server: ComfyServer, case: str):
    names = {name: node("PrimitiveString", value=name) for name in ("name", "other")}
    names |= {"many": node("WanDuetTestManyOutputs")}
    answer = comfy_server.post("/wanduet/check", {"prompt": RIGHT[case] | names})
    assert answer["problems"] == []


def test_a_branch_that_is_not_run_is_not_refused(comfy_server: ComfyServer):
    """As behind a switch, which runs one of its inputs."""
    nodes = prompt(experts(), save_it=False) | moe_sampler("wrong", denoise=0.0)
    switch = node("WanDuetTestSwitch", second=False, a=("sampler", 0), b=("wrong", 0))
    result = comfy_server.run({**nodes, "switch": switch, **save("one", latent=("switch", 0))})

    assert result.status == "success", result.error


@pytest.mark.parametrize("broken", [{}, {"prompt": None}, {"prompt": {"a": 1}}, {"prompt": []}])
def test_odd_requests(comfy_server: ComfyServer, broken: Any):
    answer = comfy_server.post("/wanduet/check", broken)
    assert set(answer) <= {"error", "problems", "plans", "automatic"}
