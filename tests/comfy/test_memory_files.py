"""Model files that change while the weights engine reads from them, in a running server."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from .graphs import T2V, Prompt, experts, memory, moe_sampler, save
from .server import ComfyServer
from .test_memory_manager import INPUTS, LINKS, run

pytestmark = pytest.mark.comfy

COPY = "toy_t2v_high_noise_that_changes.safetensors"


@pytest.fixture
def file(comfy_server: ComfyServer) -> Iterator[Path]:
    """A copy of the high-noise expert, and a server that knows nothing of it."""
    folder = comfy_server.base / "models" / "diffusion_models"
    comfy_server.free()
    yield Path(shutil.copy2(folder / T2V[0], folder / COPY))
    (folder / COPY).unlink(missing_ok=True)


def prompt(seed: int) -> Prompt:
    loaded = {**memory(blocks_to_swap=2), **experts((COPY, T2V[1]), memory=("memory", 0))}
    return {**INPUTS, **loaded, **moe_sampler(shift=8.0, seed=seed, **LINKS)}


def test_a_deleted_file_is_used_on(comfy_server: ComfyServer, file: Path):
    expected = run(comfy_server, prompt(1), "there")
    file.unlink()
    # ComfyUI refuses names that are not in its folders, so the one in the list has to be there.
    file.touch()
    run(comfy_server, prompt(2), "deleted")
    assert torch.equal(run(comfy_server, prompt(1), "deleted"), expected)


def test_a_file_that_is_cut_off_is_an_error(comfy_server: ComfyServer, file: Path):
    expected = run(comfy_server, prompt(1), "whole")
    content = file.read_bytes()
    os.truncate(file, len(content) // 2)
    result = comfy_server.run({**prompt(2), **save("cut", latent=("sampler", 0))})
    assert result.error is not None
    assert result.error["exception_type"] == "wanduet.WanDuetError"
    message = result.error["exception_message"]
    assert message.startswith(f"{COPY} was changed while its model was in use. Got "), message
    file.write_bytes(content)
    comfy_server.free()
    assert torch.equal(run(comfy_server, prompt(1), "put_back"), expected)
