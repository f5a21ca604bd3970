"""Inputs that only the run knows not to belong together: one message, before anything is sampled.

What widgets, links and file headers tell is refused earlier, see `test_mistakes.py`.
"""

from collections.abc import Iterator

import pytest

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

LINKS = {"positive": ("positive", 0), "negative": ("negative", 0)}
IMAGE = {"start_image": ("image", 0)}
ONE_MODEL = {"model_high": ("model", 0), "model_low": None}
HIGH, LOW = T2V


def prompt(
    *parts: Prompt,
    size: dict | None = None,
    sampler: dict | None = None,
    wan_vae: str = VAE_21,
    frames: int = 1,
    text_dim: int = 64,
) -> Prompt:
    """Text to video of one step; `parts` and options make it wrong."""
    nodes = {
        **random_text(text_dim=text_dim, tokens=8),
        **vae(wan_vae),
        "image": node("WanDuetTestImage", seed=1, width=64, height=64, count=frames, channels=3),
        **image_to_video(**{**LINKS, "height": 64, **(size or {})}),
        **moe_sampler(**{"steps": 1, **(sampler or {})}),
        **save("never", latent=("sampler", 0)),
    }
    for part in parts:
        nodes |= part
    return nodes


GUIDER = {
    "guider": node(
        "WanDuetMoEGuider",
        model_high=("experts", 0),
        model_low=("experts", 1),
        **LINKS,
        cfg_high=1.0,
        cfg_low=1.0,
        boundary=0.0,
    ),
    "sigmas": node("WanDuetSigmas", steps=1, shift=5.0, scheduler="wan", boundary=0.0, denoise=1.0),
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
}
FOREIGN = {"foreign": node("WanDuetTestForeign")}

CASES = {
    "5B with three start frames": (
        prompt(model(TI2V), sampler=ONE_MODEL, wan_vae=VAE_22, size=IMAGE, frames=3),
        "size",
        ["Got 3 in start_image", "need 4n+1", "5, 9, 13"],
    ),
    "more images than frames": (
        prompt(experts(I2V), size=IMAGE, frames=6),
        "size",
        ["more images than the video has frames", "Got 6 for a length of 5"],
    ),
    "motion to amplify in 5B": (
        prompt(
            model(TI2V),
            sampler=ONE_MODEL,
            wan_vae=VAE_22,
            size={**IMAGE, "motion_amplitude": 1.2},
        ),
        "size",
        ["no motion to amplify", "motion_amplitude 1.2 for TI2V-5B", "connect start_image"],
    ),
    "motion to amplify without a start image": (
        prompt(experts(), size={"motion_amplitude": 1.2}),
        "size",
        ["no motion to amplify", "for text alone", "connect start_image"],
    ),
    "an image too long for the area": (
        prompt(
            experts(I2V),
            {"image": node("WanDuetTestImage", seed=1, width=400, height=20, count=1, channels=3)},
            size={**IMAGE, "size_mode": "keep aspect (official)"},
        ),
        "size",
        ["too small for the image's aspect", "64 x 64", "400 x 20"],
    ),
    "text encoder of another width": (
        prompt(experts(), text_dim=4096),
        "sampler",
        ["text encoder does not fit", "Got embeddings of width 4096", "64", "umt5_xxl"],
    ),
    "text encoder of another width at the guider": (
        prompt(experts(), GUIDER, text_dim=4096),
        "guider",
        ["text encoder does not fit", "umt5_xxl"],
    ),
    "I2V weights without an image at the guider": (
        prompt(experts(I2V), GUIDER),
        "guider",
        ["needs an image"],
    ),
    "CLIP of another model": (
        prompt(
            experts(),
            FOREIGN,
            {"text": node("WanDuetTextEncode", clip=("foreign", 1), positive="", negative="")},
            size={"positive": ("text", 0), "negative": ("text", 1)},
        ),
        "text",
        ["not a umT5 encoder", "SDXLTokenizer", "Wan 2.2 Load Text Encoder"],
    ),
    "a GPU that is not there": (
        prompt(experts(device_low="cuda:1")),
        "experts",
        ["no such device", "Got cuda:1, need one of auto"],
    ),
    "MODEL of another family": (
        prompt(FOREIGN, sampler={"model_high": ("foreign", 0), "model_low": None}),
        "sampler",
        ["not Wan 2.2", "Flux", "'Wan 2.2 Load Model'"],
    ),
    "VAE of another family": (
        prompt(experts(), FOREIGN, size={"vae": ("foreign", 2)}),
        "size",
        ["VAE is not Wan's", "4 latent channels", "wan_2.1_vae", "wan2.2_vae"],
    ),
    "latent of another length": (
        prompt(
            experts(I2V),
            {
                "longer": node(
                    "EmptyHunyuanLatentVideo", width=64, height=64, length=9, batch_size=1
                )
            },
            size=IMAGE,
            sampler={"latent_image": ("longer", 0)},
        ),
        "sampler",
        ["different lengths", "Got a latent of 9 frames, need 5", "'Wan 2.2 Video Size & Images'"],
    ),
}


@pytest.fixture(scope="module", autouse=True)
def server_still_works(comfy_server: ComfyServer) -> Iterator[None]:
    yield
    good = (
        prompt(experts()),
        prompt(experts(I2V), size=IMAGE),
        prompt(model(TI2V), sampler=ONE_MODEL, wan_vae=VAE_22, size=IMAGE),
        prompt(experts(), GUIDER),
    )
    for nodes in good:
        result = comfy_server.run(nodes)
        assert result.status == "success", result.error


@pytest.mark.parametrize("case", CASES)
def test_the_client_is_told(comfy_server: ComfyServer, case: str):
    nodes, node_id, parts = CASES[case]
    result = comfy_server.run(nodes)

    assert result.status == "error"
    assert result.error is not None
    assert result.error["exception_type"] == "wanduet.WanDuetError"
    text = result.error["exception_message"].strip()
    assert result.error["node_id"] == node_id, text
    assert not result.progress("sampler"), "it was sampled"
    assert all(part in text for part in parts), text
    assert " Got " in text, text
    assert " need" in text, text
    assert text.endswith("."), text
    assert "\n" not in text, text
