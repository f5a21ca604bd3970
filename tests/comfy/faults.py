"""Prompts in which one thing goes wrong at one place, and what must hold after them."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from .client import RunResult
from .graphs import (
    I2V,
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
from .stock import empty_latent, ksampler

COPY = "toy_i2v_high_noise_that_changes.safetensors"
OUT = "fault"
DAMAGES = ("cut off", "deleted", "replaced", "written to")
"""Faults of `fault_nodes` that happen to the file."""


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong."""

    place: str
    """Of `fault_nodes`."""
    what: str
    """Also of there."""
    ends: str
    """How the prompt ends: status, or several with a bar between."""

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.place}: {self.what}"


def video(seed: int) -> Prompt:
    """Image to video in two steps, one of each expert, by the engine, from text to frames."""
    return {
        **memory(blocks_to_swap=1),
        **experts((COPY, I2V[1]), memory=("memory", 0)),
        **prompts("a red ball falls"),
        **vae(),
        "image": node("WanDuetTestImage", seed=1, width=32, height=32, count=1, channels=3),
        **image_to_video(start_image=("image", 0), width=32, height=32),
        **moe_sampler(steps=2, shift=5.0, seed=seed),
        "decode": node("WanDuetVAEDecode", vae=("vae", 0), samples=("sampler", 0), tiling="auto"),
        **save(OUT, image=("decode", 0)),
    }


def converted(seed: int) -> Prompt:
    """Text to video with weights that are converted into a file."""
    options = {"model_name": T2V[0], "precision": "int8", "memory": ("memory", 0)}
    return {
        **random_text(64, 20),
        **empty_latent(32, 32),
        **memory(blocks_to_swap=1),
        "model": node("WanDuetTestLoadAnyway", **options),
        **ksampler(("model", 0), "sampler", steps=2, seed=seed),
        **save(OUT, latent=("sampler", 0)),
    }


def saved() -> Prompt:
    """A model as a file."""
    inputs = {"filename_prefix": "diffusion_models/fault", "format": "fp8"}
    return {**model(T2V[0]), "write": node("WanDuetSaveModel", model=("model", 0), **inputs)}


def prompt_for(place: str, seed: int) -> Prompt:
    """Returns the prompt that has a place."""
    if place.startswith("conversion"):
        return converted(seed)
    return saved() if place.startswith("save") else video(seed)


def result(server: ComfyServer, place: str) -> Mapping[str, Tensor]:
    """Returns what the prompt of a place has written."""
    if not place.startswith("save"):
        return load_file(server.output / f"{OUT}.safetensors")
    (file,) = (server.output / "diffusion_models").glob("fault*.safetensors")
    return load_file(file)


def forget(server: ComfyServer) -> None:
    """Has every node run again, with nothing kept on disk, and the model file as it was."""
    server.free()
    for folder in (server.base / "user" / "wanduet", server.output / "diffusion_models"):
        for name in ("text_embeddings", "weights", "."):
            for file in (folder / name).glob("*.*"):
                if file.is_file():
                    file.unlink()
    put_back(server)


def put_back(server: ComfyServer) -> None:
    """Has the model file be whole."""
    folder = server.base / "models" / "diffusion_models"
    shutil.copyfile(folder / I2V[0], folder / f"{COPY}.new")
    (folder / f"{COPY}.new").replace(folder / COPY)


def arm(server: ComfyServer, fault: Fault) -> None:
    """Has it happen in the next prompt."""
    (server.output / "fault.txt").unlink(missing_ok=True)
    file = str(server.base / "models" / "diffusion_models" / COPY)
    inputs = {"place": fault.place, "fault": fault.what, "file": file}
    armed = server.run({"arm": node("WanDuetTestFault", **inputs)})
    assert armed.status == "success", armed.error


def happened(server: ComfyServer) -> bool:
    """Whether it has."""
    return (server.output / "fault.txt").exists()


def leftovers(server: ComfyServer) -> list[Path]:
    """Returns unfinished files."""
    folders = (server.base / "user", server.output)
    return [
        file
        for folder in folders
        for ending in ("*.part", "*.partial")
        for file in folder.rglob(ending)
    ]


def expect_equal(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    """Whether two results are the same to the last bit."""
    return found.keys() == expected.keys() and all(
        found[key].dtype == expected[key].dtype and torch.equal(_bits(found[key]), _bits(value))
        for key, value in expected.items()
    )


def _bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().flatten().view(torch.uint8)


def said(ended: RunResult) -> str:
    """Returns the error's message, for the report."""
    return str((ended.error or {}).get("exception_message", "")).strip()
