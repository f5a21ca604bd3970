"""Model files that change while the weights engine reads from them, in a running server."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from .graphs import T2V, Prompt, experts, memory, model, moe_sampler, node, save
from .server import ComfyServer
from .stock import ksampler
from .test_memory_manager import INPUTS, LINKS, run

pytestmark = pytest.mark.comfy

COPY = "toy_t2v_high_noise_that_changes.safetensors"
SCALED = "toy_t2v_high_noise_scaled_fp8.safetensors"
"""Weights that ComfyUI's manager leaves in the file."""


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
    status = file.stat()
    file.unlink()
    # ComfyUI refuses names that are not in its folders, and loads files with another date again.
    file.touch()
    os.truncate(file, status.st_size)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    run(comfy_server, prompt(2), "deleted")
    assert torch.equal(run(comfy_server, prompt(1), "deleted"), expected)


def test_a_changed_file_is_loaded_again(comfy_server: ComfyServer, file: Path):
    expected = run(comfy_server, prompt(1), "whole")
    content = file.read_bytes()
    os.truncate(file, len(content) // 2)
    result = comfy_server.run({**prompt(2), **save("cut", latent=("sampler", 0))})
    assert result.error is not None
    assert result.error["node_id"] == "experts"
    assert COPY in result.error["exception_message"]
    file.write_bytes(content)
    assert torch.equal(run(comfy_server, prompt(1), "put_back"), expected)


@pytest.mark.parametrize("cut", [True, False])
def test_without_the_engine_a_changed_file_is_an_error(comfy_server: ComfyServer, cut: bool):
    """A mapped file that is cut off would end the server."""
    folder = comfy_server.base / "models" / "diffusion_models"
    file = Path(shutil.copy2(folder / SCALED, folder / COPY))
    changed = node("WanDuetTestCutFile", model=("model", 0), file=str(file), cut=cut)
    sampler = ksampler(("changed", 0), "sampler", seed=3)
    prompt = {**INPUTS, **model(COPY), "changed": changed, **sampler}
    result = comfy_server.run({**prompt, **save("cut", latent=("sampler", 0))})
    file.unlink()
    assert result.error is not None
    assert result.error["node_id"] == "sampler"
    message = result.error["exception_message"]
    assert f"{COPY} was changed while its model was in use. Got " in message
    assert ("4096 bytes" in message) == cut
    run(comfy_server, {**INPUTS, **model(SCALED), **ksampler(("model", 0), "sampler")}, "whole")
