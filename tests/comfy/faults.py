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
    TEXT_ENCODER,
    VAE_21,
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

SUFFIX = "_that_changes.safetensors"
COPY = f"toy_i2v_high_noise{SUFFIX}"
COPIES = {
    "models": ("diffusion_models", I2V[0]),
    "text": ("text_encoders", TEXT_ENCODER),
    "frames": ("vae", VAE_21),
    "converted": ("diffusion_models", T2V[0]),
}
"""Folder and file of which the prompts use a copy, which is what gets damaged."""
FILE_OF = {
    "text": "text",
    "text load": "text",
    "cache write": "text",
    "decode": "frames",
    "frames' load": "frames",
    "conversion": "converted",
    "conversion's end": "converted",
    "save": "converted",
    "save's end": "converted",
}
"""Which one is in use at a place; elsewhere the experts' model."""
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


def copy_of(name: str) -> str:
    """Returns the name of the copy of a file."""
    return name.replace(".safetensors", SUFFIX)


def video(seed: int) -> Prompt:
    """Image to video in two steps, one of each expert, by the engine, from text to frames."""
    texts = prompts("a red ball falls")
    texts["clip"]["inputs"]["text_encoder_name"] = copy_of(TEXT_ENCODER)
    return {
        **memory(blocks_to_swap=1),
        **experts((COPY, I2V[1]), memory=("memory", 0)),
        **texts,
        **vae(copy_of(VAE_21)),
        "image": node("WanDuetTestImage", seed=1, width=32, height=32, count=1, channels=3),
        **image_to_video(start_image=("image", 0), width=32, height=32),
        **moe_sampler(steps=2, shift=5.0, seed=seed),
        "decode": node("WanDuetVAEDecode", vae=("vae", 0), samples=("sampler", 0), tiling="auto"),
        **save(OUT, image=("decode", 0)),
    }


def converted(seed: int) -> Prompt:
    """Text to video with weights that are converted into a file."""
    options = {"model_name": copy_of(T2V[0]), "precision": "int8", "memory": ("memory", 0)}
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
    return {
        **model(copy_of(T2V[0])),
        "write": node("WanDuetSaveModel", model=("model", 0), **inputs),
    }


def prompt_for(place: str, seed: int) -> Prompt:
    """Returns the prompt that has a place."""
    if place.startswith("conversion"):
        return converted(seed)
    return saved() if place.startswith("save") else video(seed)


def result(server: ComfyServer, place: str) -> Mapping[str, Tensor]:
    """Returns what the prompt of a place has written."""
    if not place.startswith("save"):
        return load_file(server.output / f"{OUT}.safetensors")
    return load_file(max((server.output / "diffusion_models").glob("fault*.safetensors")))


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
    """Has the model files be whole."""
    for folder, name in COPIES.values():
        file = server.base / "models" / folder / copy_of(name)
        shutil.copyfile(file.with_name(name), file.with_suffix(".new"))
        file.with_suffix(".new").replace(file)


def arm(server: ComfyServer, fault: Fault) -> None:
    """Has it happen in the next prompt."""
    (server.output / "fault.txt").unlink(missing_ok=True)
    folder, name = COPIES[FILE_OF.get(fault.place, "models")]
    file = str(server.base / "models" / folder / copy_of(name))
    inputs = {"place": fault.place, "fault": fault.what, "file": file}
    armed = server.run({"arm": node("WanDuetTestFault", **inputs)})
    assert armed.status == "success", armed.error


def disarm(server: ComfyServer) -> None:
    """Ends a fault that lasts: a limit of memory."""
    inputs = {"place": "none", "fault": "", "file": ""}
    ended = server.run({"arm": node("WanDuetTestFault", **inputs)})
    assert ended.status == "success", ended.error


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
