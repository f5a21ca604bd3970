"""The scripts at toy size on the CPU, beside ComfyUI's own classes and diffusers'."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .conftest import REPOSITORY

Lines = list[dict[str, Any]]


def run(script: str, comfyui: Path, *arguments: str) -> Lines:
    """Runs a script, with ComfyUI's own packages unless diffusers takes part.

    Their torchvision may be of another build than torch, which diffusers does not survive.
    """
    packages = os.environ.get("WANDUET_COMFYUI_PACKAGES", "")
    command = [sys.executable, f"benchmarks/{script}", *arguments, "--device", "cpu"]
    environment = {**os.environ, "COMFYUI_PATH": str(comfyui), "OMP_NUM_THREADS": "1"}
    if packages and "diffusers" not in arguments:
        environment["PYTHONPATH"] = packages
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def of(lines: Lines, table: str, key: str) -> dict[str, Any]:
    """Returns a key of a table's lines by contestant or peer."""
    found = [line for line in lines if line["table"] == table]
    return {line.get("contestant") or line["peer"]: line.get(key) for line in found}


@pytest.mark.comfy
def test_forward_beside_comfyui(comfyui: Path):
    options = ("--rounds", "2", "--repeats", "1", "--error-frames", "1", "--beside", "comfyui")
    lines = run("forward.py", comfyui, "toy", "64x64x5", *options)

    turns = [(line["contestant"], line["repeats"]) for line in lines if line["table"] == "forward"]
    assert turns == [("wan-duet", 1), ("comfyui", 1), ("wan-duet", 2), ("comfyui", 2)]
    assert of(lines, "forward", "label")["comfyui"].startswith("ComfyUI 0.")
    # The same weights in both: they differ by rounding only.
    errors = of(lines, "forward_error", "rms_error")
    assert 0 < errors["wan-duet"] < errors["comfyui"] < 1e-2
    seconds = of(lines, "forward", "seconds")
    ratio = of(lines, "forward_ratio", "ratio")["comfyui"]
    assert ratio == pytest.approx(seconds["wan-duet"] / seconds["comfyui"], abs=1e-3)


@pytest.mark.comfy
def test_forward_beside_fp8_products(comfyui: Path):
    options = ("--format", "fp8", "--layers", "1", "--repeats", "1", "--error-frames", "1")
    lines = run("forward.py", comfyui, "toy", "64x64x5", *options, "--beside", "comfyui")

    errors = of(lines, "forward_error", "rms_error")
    assert 1e-2 < errors["wan-duet"] < errors["comfyui"] < 1e-1
    assert {(line["layers"], line["of_layers"]) for line in lines} == {(1, 2)}


@pytest.mark.comfy
def test_vae_beside_comfyui(comfyui: Path):
    options = ("--beside", "comfyui", "--repeats", "1")
    lines = run("vae.py", comfyui, "toy", "64x64x5", *options)

    decodes = [line for line in lines if line.get("operation") == "decode"]
    psnr = of(decodes, "vae", "psnr_to_fp32_db")
    assert list(psnr) == ["wan-duet", "comfyui"]
    assert min(psnr.values()) > 40
    assert list(of(lines, "vae_ratio", "ratio")) == ["comfyui"]


def test_a_peer_that_is_missing_does_not_stop_another(tmp_path: Path):
    options = ("--repeats", "1", "--error-frames", "1", "--beside", "comfyui", "diffusers")
    lines = run("forward.py", tmp_path, "toy", "64x64x5", *options)

    assert list(of(lines, "forward", "seconds")) == ["wan-duet", "comfyui", "diffusers"]
    assert "COMFYUI_PATH" in of(lines, "forward", "failed")["comfyui"]
    assert list(of(lines, "forward_ratio", "ratio")) == ["diffusers"]
    errors = of(lines, "forward_error", "rms_error")
    assert 0 < errors["wan-duet"] < errors["diffusers"] < 1e-2
