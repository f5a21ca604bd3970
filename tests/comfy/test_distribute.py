"""Forward passes in other processes, through a real server: results, faults, and what is refused.

Most need Ray, and a server that has it: `WANDUET_RAY_PACKAGES` names a folder to find it in.
"""

import importlib.util
import os
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from websocket import WebSocketException

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
from .processes import RAY, WORKER, below, is_there, named
from .server import ComfyServer, prepare
from .stock import LORA, ROUNDING, T2V_HIGH, T2V_LOW, difference, relative, run_to_tensors

pytestmark = pytest.mark.comfy

PACKAGES = os.environ.get("WANDUET_RAY_PACKAGES", "")
HAS_RAY = bool(PACKAGES) or importlib.util.find_spec("ray") is not None
PAIR = {"model_high": ("experts", 0), "model_low": ("experts", 1)}
SHARED = {"model_high": ("shared", 0), "model_low": ("shared", 1)}
ACTOR_FAULTS = Path(__file__).parent / "actor_faults"
SHORTAGE = "shortage"
"""A file: the process that removes it has no memory in its next pass."""

ANOTHER_RAY = """
from pathlib import Path

__version__ = "0.8.7"


def __getattr__(name):
    if name == "__path__" or not Path(__file__).with_name("whole").exists():
        raise AttributeError(name)
    return init if name == "init" else lambda: False


def init(**options):
    raise Exception("Version mismatch: the cluster was started with Ray 1.0")
"""


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
    paths = [os.environ.get("PYTHONPATH", ""), PACKAGES, str(ACTOR_FAULTS)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(path for path in paths if path))
        patch.setenv("WANDUET_TEST_SHORTAGE", str(base / SHORTAGE))
        with ComfyServer(comfyui, base) as server:
            yield server
            started = ray_processes(server)
    wait_for_end(started)


def ray_processes(server: ComfyServer) -> dict[int, str]:
    """Returns a server's processes that compute, and those that start them, by number."""
    return named(below(server.pid), *RAY)


def workers(server: ComfyServer) -> list[int]:
    """Returns the numbers of processes that predict."""
    return [*named(below(server.pid), WORKER)]


def wait_for_end(processes: Iterable[int]) -> None:
    """Waits until nothing is left of some processes."""
    deadline = time.monotonic() + 300
    while left := [number for number in processes if is_there(number)]:
        assert time.monotonic() < deadline, f"processes of Ray outlive ComfyUI: {left}"
        time.sleep(0.2)


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
    assert relative(saved["rows"], saved["whole"]) <= ROUNDING
    assert relative(saved["there"], saved["here"]) <= ROUNDING
    assert difference(saved["plain"], saved["here"]) > 1e-3


def test_an_ended_process(ray_server: ComfyServer):
    """The prompt ends with an error that says so, and the next one works."""
    prompt = {**inputs(), **distribute(mode="ulysses")}
    prompt |= {**guided("sampler", SHARED, steps=1000), **save("no", latent=("sampler", 0))}
    killed: list[int] = []

    def kill(message: Any) -> None:
        if message.type == "progress" and not killed:
            killed.append(workers(ray_server)[0])
            os.kill(killed[0], signal.SIGKILL)

    result = ray_server.run(prompt, on_message=kill)
    assert result.error is not None
    assert result.error["exception_message"].startswith(
        "A process of the distributed model has ended."
    )
    prompt |= guided("sampler", SHARED)
    result = ray_server.run({**prompt, **save("no", latent=("sampler", 0))})
    assert result.status == "success", result.error
    assert killed[0] not in workers(ray_server)


@pytest.mark.parametrize(
    ("part", "said"), [("raylet/raylet", "Ray has ended"), ("gcs/gcs_server", "")]
)
def test_ray_itself_ends(ray_server: ComfyServer, part: str, said: str):
    """ComfyUI does not end with it, and the next prompt starts it anew."""
    prompt = {**inputs(), **distribute(mode="ulysses"), **save("no", latent=("sampler", 0))}
    prompt |= guided("sampler", SHARED, seed=5)
    assert ray_server.run(prompt).status == "success"
    before = ray_processes(ray_server)
    os.kill(next(n for n, line in before.items() if part in line), signal.SIGKILL)
    error = ray_server.run({**prompt, **guided("sampler", SHARED, seed=6)}).error
    assert (error or {"exception_message": ""})["exception_message"].startswith(said)
    assert bool(error) == bool(said), "what has started does not need the other part to compute"
    prompt |= {**distribute(mode="layers"), **guided("sampler", SHARED, seed=7)}
    result = ray_server.run(prompt)
    assert result.status == "success", result.error
    wait_for_end(before)


def test_a_gpu_without_memory(ray_server: ComfyServer):
    """The prompt ends with an error that says so; the next one leaves more memory free."""
    prompt = {**inputs(), **distribute(mode="ulysses"), **save("no", latent=("sampler", 0))}
    prompt |= guided("sampler", SHARED)
    assert ray_server.run(prompt).status == "success"
    before = set(workers(ray_server))
    (ray_server.base / SHORTAGE).touch()
    prompt |= guided("sampler", SHARED, seed=4)
    error = ray_server.run(prompt).error
    assert error is not None
    assert error["node_id"] == "sampler"
    assert error["exception_message"].startswith("The GPU ran out of memory. Got ")
    result = ray_server.run(prompt)
    assert result.status == "success", result.error
    assert any("more memory is left free" in text for text in result.texts("sampler"))
    assert not before & set(workers(ray_server))


def test_comfyui_is_killed(
    ray_server: ComfyServer, comfyui: Path, toy_models: Path, tmp_path: Path
):
    """In the middle of a step: nothing outlives it, and nothing of another ComfyUI's ends."""
    prepare(tmp_path, toy_models, ["helper_nodes.py"])
    others = ray_processes(ray_server)
    prompt = {**inputs(), **distribute(mode="ulysses"), **save("no", latent=("sampler", 0))}
    prompt |= guided("sampler", SHARED, steps=1000)
    started: dict[int, str] = {}

    def kill(message: Any) -> None:
        if message.type == "progress" and not started:
            started.update(ray_processes(server))
            os.kill(server.pid, signal.SIGKILL)

    with pytest.MonkeyPatch.context() as patch:
        paths = [path for path in (os.environ.get("PYTHONPATH", ""), PACKAGES) if path]
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))
        with ComfyServer(comfyui, tmp_path) as server:
            with pytest.raises((OSError, WebSocketException)):
                server.run(prompt, on_message=kill)
            assert len(started) == 4, started
            wait_for_end(started)
    assert ray_processes(ray_server).keys() == others.keys()


@pytest.mark.usefixtures("ray_server")
def test_another_ray(comfyui: Path, toy_models: Path, tmp_path: Path):
    """One that lacks what is needed is named with its version; so is why one does not connect."""
    prepare(tmp_path, toy_models, ["helper_nodes.py"])
    package = tmp_path / "packages" / "ray"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(ANOTHER_RAY, encoding="utf-8")
    prompt = {**inputs(), **distribute(address="10.0.0.1:6379"), **guided("sampler", SHARED)}
    prompt |= save("no", latent=("sampler", 0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(package.parent))
        patch.setenv("WANDUET_RAY_CLUSTERS", "10.0.0.1:6379")
        with ComfyServer(comfyui, tmp_path) as server:
            errors = [server.run(prompt).error]
            (package / "whole").touch()
            errors.append(server.run(prompt).error)
    said = [error["exception_message"] for error in errors if error is not None]
    assert said[0].startswith("This Ray is another one. Got version 0.8.7")
    assert said[1].startswith("Ray does not start at 10.0.0.1:6379. Got 'Version mismatch")


def test_cancel(ray_server: ComfyServer):
    """The prompt ends before its steps do, and the processes are ready for the next."""
    prompt = {**inputs(), **distribute(mode="ulysses")}
    long = {**prompt, **guided("sampler", SHARED, steps=1000, seed=2)}
    waits = True

    def cancel(message: Any) -> None:
        nonlocal waits
        if waits and message.type == "progress":
            waits = False
            ray_server.interrupt()

    result = ray_server.run({**long, **save("no", latent=("sampler", 0))}, on_message=cancel)
    assert result.status == "interrupted"
    before = set(workers(ray_server))
    prompt |= {**guided("sampler", SHARED, seed=3), **save("no", latent=("sampler", 0))}
    assert ray_server.run(prompt).status == "success"
    assert set(workers(ray_server)) == before


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
