"""Forward passes in other processes, through a real server: results, faults, and what is refused.

Most need Ray, and a server that has it: `WANDUET_RAY_PACKAGES` names a folder to find it in.
"""

import importlib.util
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .graphs import (
    T2V,
    TEXT_ENCODER,
    Prompt,
    experts,
    image_to_video,
    moe_sampler,
    node,
    random_text,
    save,
    vae,
)
from .server import ComfyServer, prepare
from .stock import LORA, T2V_HIGH, T2V_LOW, difference, run_to_tensors

pytestmark = pytest.mark.comfy

PACKAGES = os.environ.get("WANDUET_RAY_PACKAGES", "")
HAS_RAY = bool(PACKAGES) or importlib.util.find_spec("ray") is not None
PAIR = {"model_high": ("experts", 0), "model_low": ("experts", 1)}
SHARED = {"model_high": ("shared", 0), "model_low": ("shared", 1)}


@pytest.fixture(scope="module")
def ray_server(
    comfyui: Path, toy_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ComfyServer]:
    """A server with Ray, which leaves no process behind."""
    if not HAS_RAY:
        # Not in every check: it is larger than all that the tests need.
        say = pytest.fail if os.environ.get("WANDUET_REQUIRE_RAY") else pytest.skip
        say("No Ray. Set WANDUET_RAY_PACKAGES, or install it.")
    base = tmp_path_factory.mktemp("with_ray")
    prepare(base, toy_models, ["helper_nodes.py"])
    paths = [path for path in (os.environ.get("PYTHONPATH", ""), PACKAGES) if path]
    before = ray_processes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))
        with ComfyServer(comfyui, base) as server:
            yield server
    deadline = time.monotonic() + 3000
    while (left := ray_processes() - before) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not left, "processes of Ray outlive ComfyUI"


def ray_processes() -> set[int]:
    """Returns the numbers of processes that compute, and of those that start them.

    Ray's own agents hold nothing, and end a minute after these.
    """
    names = ("raylet/raylet", "gcs/gcs_server", "ray::WanDuetWorker")
    return {number for number, line in command_lines() if any(name in line for name in names)}


def workers() -> list[int]:
    """Returns the numbers of processes that predict."""
    return [number for number, line in command_lines() if "ray::WanDuetWorker" in line]


def command_lines() -> Iterator[tuple[int, str]]:
    """Yields all processes and how they are called."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        yield int(folder.name), line


def distribute(**options: Any) -> Prompt:
    """Has both experts of `experts` computed elsewhere: ("shared", 0) and ("shared", 1)."""
    options = {"mode": "auto", "gpus": 2, "address": "", **PAIR, **options}
    return {"shared": node("WanDuetDistribute", **options)}


def inputs(**loader: Any) -> Prompt:
    """A pair, and a video whose 3 x 6 x 3 = 54 or 3 x 5 x 3 tokens it makes."""
    size = {"positive": ("positive", 0), "negative": ("negative", 0), "width": 80, "height": 48}
    return {
        **random_text(),
        **vae(),
        **experts((T2V_HIGH, T2V_LOW), **loader),
        **image_to_video(**size, length=9),
    }


def guided(node_id: str, links: dict[str, Any], **options: Any) -> Prompt:
    """Both experts with guidance."""
    return moe_sampler(node_id, **links, cfg_high=2.0, cfg_low=1.0, **options)


def test_ray_is_missing(comfy_server: ComfyServer):
    if importlib.util.find_spec("ray") is not None:
        pytest.skip("Ray is there.")
    prompt = {**inputs(), **distribute(), **guided("sampler", SHARED)}
    error = comfy_server.run({**prompt, **save("no", latent=("sampler", 0))}).error
    assert error is not None
    assert error["node_id"] == "shared"
    assert error["exception_type"] == "wanduet.WanDuetError"
    assert error["exception_message"].startswith("Ray is missing. Got no usable package 'ray'")
    assert "'pip install ray'" in error["exception_message"]


@pytest.mark.parametrize("mode", ["auto", "experts", "layers"])
def test_the_video_is_the_same(ray_server: ComfyServer, mode: str):
    """With a LoRA and a negative prompt inside of attention; tokens are uneven for two.

    So is what a VAE decodes and encodes whose rows are shared.
    """
    lora = {"lora_name": LORA, "strength_model": 1.0}
    nag = {"negative": ("negative", 0), "nag_scale": 4.0, "nag_alpha": 0.5, "nag_tau": 2.5}
    prompt = inputs()
    for name, links in (("here", PAIR), ("there", SHARED)):
        for number, link in enumerate(links.values()):
            loaded = node("LoraLoaderModelOnly", model=link, **lora)
            prompt[f"{name}_{number}"] = loaded
        changed = {"model_high": (f"{name}_0", 0), "model_low": (f"{name}_1", 0)}
        prompt[f"{name}_nag"] = node("WanDuetNAG", **changed, **nag)
        ends = {"model_high": (f"{name}_nag", 0), "model_low": (f"{name}_nag", 1)}
        prompt |= guided(name, ends)
    prompt |= {**distribute(mode=mode, vae=("vae", 0)), **guided("plain", PAIR)}
    for name, link in (("whole", ("vae", 0)), ("rows", ("shared", 2))):
        prompt[f"{name}_frames"] = node(
            "WanDuetVAEDecode", vae=link, samples=("here", 0), tiling="auto"
        )
        prompt[name] = node("VAEEncode", vae=link, pixels=(f"{name}_frames", 0))
    names = ("here", "there", "plain", "whole", "rows")
    saved = run_to_tensors(ray_server, prompt, {n: (n, 0) for n in names})
    assert difference(saved["rows"], saved["whole"]) < 1e-5
    assert difference(saved["there"], saved["here"]) < 1e-5
    assert difference(saved["plain"], saved["here"]) > 1e-3


def test_an_ended_process(ray_server: ComfyServer):
    """The prompt ends with an error that says so, and the next one works."""
    prompt = {**inputs(), **distribute(mode="ulysses")}
    prompt |= {**guided("sampler", SHARED, steps=200), **save("no", latent=("sampler", 0))}
    killed: list[int] = []

    def kill(message: Any) -> None:
        if message.type == "progress" and not killed:
            killed.append(workers()[0])
            os.kill(killed[0], signal.SIGKILL)

    result = ray_server.run(prompt, on_message=kill)
    assert result.error is not None
    assert result.error["exception_message"].startswith(
        "A process of the distributed model has ended."
    )
    prompt |= guided("sampler", SHARED)
    result = ray_server.run({**prompt, **save("no", latent=("sampler", 0))})
    assert result.status == "success", result.error
    assert killed[0] not in workers()


@pytest.mark.usefixtures("ray_server")
def test_comfyui_is_killed(comfyui: Path, toy_models: Path, tmp_path: Path):
    """Nothing outlives it, and nothing of another ComfyUI's ends with it."""
    prepare(tmp_path, toy_models, ["helper_nodes.py"])
    before = ray_processes()
    prompt = {**inputs(), **distribute(mode="ulysses"), **guided("sampler", SHARED)}
    prompt |= save("no", latent=("sampler", 0))
    with pytest.MonkeyPatch.context() as patch:
        paths = [path for path in (os.environ.get("PYTHONPATH", ""), PACKAGES) if path]
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))
        with ComfyServer(comfyui, tmp_path) as server:
            assert server.run(prompt).status == "success"
            assert ray_processes() > before
            os.kill(server.pid, signal.SIGKILL)
            deadline = time.monotonic() + 300
            while (left := ray_processes() - before) and time.monotonic() < deadline:
                time.sleep(0.2)
    assert not left
    assert ray_processes() == before


@pytest.mark.usefixtures("ray_server")
def test_another_ray(comfyui: Path, toy_models: Path, tmp_path: Path):
    """A package of that name that lacks what is needed is named with its version."""
    prepare(tmp_path, toy_models, ["helper_nodes.py"])
    package = tmp_path / "packages" / "ray"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("__version__ = '0.8.7'\n", encoding="utf-8")
    prompt = {**inputs(), **distribute(), **guided("sampler", SHARED)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(package.parent))
        with ComfyServer(comfyui, tmp_path) as server:
            error = server.run({**prompt, **save("no", latent=("sampler", 0))}).error
    assert error is not None
    assert error["exception_message"].startswith("This Ray is another one. Got version 0.8.7")


def test_cancel(ray_server: ComfyServer):
    """The prompt ends at once, and the processes are ready for the next."""
    prompt = {**inputs(), **distribute(mode="ulysses")}
    long = {**prompt, **guided("sampler", SHARED, steps=200, seed=2)}
    told: list[Any] = []

    def cancel(message: Any) -> None:
        if message.type == "progress":
            told.append(message)
            ray_server.interrupt()

    result = ray_server.run({**long, **save("no", latent=("sampler", 0))}, on_message=cancel)
    assert result.status == "interrupted"
    assert len(told) < 100
    before = set(workers())
    prompt |= {**guided("sampler", SHARED, seed=3), **save("no", latent=("sampler", 0))}
    assert ray_server.run(prompt).status == "success"
    assert set(workers()) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "ulysses", "gpus": 3}, "Got 3 for 2 heads, need one of 1, 2."),
        ({"mode": "cfg", "gpus": 4}, "Got 4 GPUs, need 2 at most"),
        ({"mode": "experts", "gpus": 3}, "Got 3 GPUs for 2 of 2 experts"),
    ],
)
def test_what_cannot_be_split(ray_server: ComfyServer, options: Any, message: str):
    prompt = {**inputs(), **distribute(**options), **guided("sampler", SHARED)}
    error = ray_server.run({**prompt, **save("no", latent=("sampler", 0))}).error
    assert error is not None
    assert error["node_id"] == "shared"
    assert message in error["exception_message"]


def test_a_vae_of_another_loader_is_refused(ray_server: ComfyServer):
    prompt = {**inputs(), **distribute(vae=("stock", 0)), **guided("sampler", SHARED)}
    prompt["stock"] = node("VAELoader", vae_name=prompt["vae"]["inputs"]["vae_name"])
    error = ray_server.run({**prompt, **save("no", latent=("sampler", 0))}).error
    assert error is not None
    assert error["node_id"] == "shared"
    assert "This VAE cannot be distributed. Got one of another node" in error["exception_message"]


def test_patches_inside_are_refused(ray_server: ComfyServer):
    skip = {"double_layers": "0", "single_layers": "", "scale": 3.0, "start_percent": 0.0}
    skip |= {"end_percent": 1.0, "rescaling_scale": 0.0}
    prompt = {**inputs(), **distribute()}
    prompt["skip"] = node("SkipLayerGuidanceDiT", model=("shared", 0), **skip)
    links = {**SHARED, "model_high": ("skip", 0)}
    prompt |= {**guided("sampler", links), **save("no", latent=("sampler", 0))}
    error = ray_server.run(prompt).error
    assert error is not None
    assert "cannot be sent to other GPUs. Got dit" in error["exception_message"]

    ranges = {"prompts": "0-4: a\n5-8: b", "negative": "", "transition": 0.0, "fps": 16.0}
    prompt["clip"] = node("WanDuetTextEncoderLoader", text_encoder_name=TEXT_ENCODER)
    prompt["timed"] = node("WanDuetPromptSchedule", clip=("clip", 0), **ranges)
    prompt["size"]["inputs"]["positive"] = ["timed", 0]
    prompt |= {**experts(T2V), **guided("sampler", SHARED, negative=("timed", 1))}
    error = ray_server.run(prompt).error
    assert error is not None
    assert "Got prompts over time, need none" in error["exception_message"]
