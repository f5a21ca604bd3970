"""Routes that the graph editor asks. Every answer is JSON with status 200, errors too."""

from urllib.parse import urlencode

import pytest

from wan_model.config import OFFICIAL

from .server import ComfyServer

pytestmark = pytest.mark.comfy

SCHEDULE = {"sampler": "euler", "scheduler": "simple", "steps": 4, "shift": 5, "denoise": 1}


def ask(server: ComfyServer, route: str, **query: object) -> dict:
    return server.get(f"/wanduet/{route}?{urlencode(query)}")


@pytest.mark.parametrize("kind", ["t2v", "i2v"])
def test_describe_gives_the_official_settings(comfy_server: ComfyServer, kind):
    name = f"toy_{kind}_low_noise.safetensors"
    answer = ask(comfy_server, "describe", folder="diffusion_models", name=name)

    official = OFFICIAL[kind]
    for field in ("steps", "shift", "boundary", "cfg_high", "cfg_low", "fps"):
        assert answer[field] == getattr(official, field)
    assert (answer["kind"], answer["expert"]) == (kind, "low")


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("diffusion_models", "no such file.safetensors"),
        ("diffusion_models", "../vae/toy_wan_2.1_vae.safetensors"),
        ("diffusion_models", "/etc/passwd"),
        ("vae", "toy_wan_2.1_vae.safetensors"),
        ("no such folder", "toy_ti2v.safetensors"),
    ],
)
def test_describe_opens_listed_diffusion_models_only(
    comfy_server: ComfyServer, folder: str, name: str
):
    answer = ask(comfy_server, "describe", folder=folder, name=name)

    assert list(answer) == ["error"]
    assert name in answer["error"]


def test_sigmas_are_those_of_the_scheduler(comfy_server: ComfyServer):
    full = ask(comfy_server, "sigmas", **SCHEDULE)["sigmas"]
    assert full == pytest.approx([1, 0.9375, 5 / 6, 0.625, 0])

    part = ask(comfy_server, "sigmas", **SCHEDULE | {"steps": 2, "denoise": 0.5})["sigmas"]
    assert part == pytest.approx(full[2:])


@pytest.mark.parametrize(
    "wrong",
    [
        {"scheduler": "no such scheduler"},
        {"sampler": ""},
        {"steps": 0},
        {"steps": "four"},
        {"steps": 10_001},
        {"steps": 1000, "denoise": 0.01},
        {"shift": 0},
        {"shift": "nan"},
        {"denoise": 1.5},
        {"denoise": "nan"},
    ],
)
def test_sigmas_of_wrong_settings_are_an_error(comfy_server: ComfyServer, wrong: dict):
    assert list(ask(comfy_server, "sigmas", **SCHEDULE | wrong)) == ["error"]
