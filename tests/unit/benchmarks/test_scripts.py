"""The scripts at toy size on the CPU, beside ComfyUI's own classes and diffusers'."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from .conftest import REPOSITORY, import_script

Lines = list[dict[str, Any]]


def run(script: str, comfyui: Path, *arguments: object) -> Lines:
    """Runs a script, with ComfyUI's own packages where it is beside us and diffusers is not.

    Their torchvision may be of another build than torch, which diffusers and transformers do not
    survive.
    """
    packages = os.environ.get("WANDUET_COMFYUI_PACKAGES", "")
    command = [sys.executable, f"benchmarks/{script}", *map(str, arguments)]
    if script in ("forward.py", "vae.py"):
        command += ["--device", "cpu"]
    environment = {**os.environ, "COMFYUI_PATH": str(comfyui), "OMP_NUM_THREADS": "1"}
    if packages and "comfyui" in arguments and "diffusers" not in arguments:
        environment["PYTHONPATH"] = packages
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def here(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Lines]:
    """Runs a script in this process, which saves the start of another."""

    def run(name: str, *arguments: str) -> Lines:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        import_script(name).main()
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return run


def of(lines: Lines, table: str, key: str) -> dict[str, Any]:
    """Returns a key of a table's lines by contestant or peer."""
    found = [line for line in lines if line["table"] == table]
    return {line.get("contestant") or line["peer"]: line.get(key) for line in found}


@pytest.mark.comfy
def test_forward_beside_comfyui(comfyui: Path):
    options = ("--repeats", "2", "--error-frames", "1", "--beside", "comfyui")
    options += ("--format", "fp8", "--layers", "1", "--lora", "--stages", "fused", "plain")
    lines = run("forward.py", comfyui, "toy", "64x64x5", *options)

    plain, patched = "wan-duet, plain", "wan-duet with a LoRA of rank 64"
    turns = [(line["contestant"], line["repeats"]) for line in lines if line["table"] == "forward"]
    assert turns == [(name, 2) for name in ("wan-duet", plain, patched, "comfyui")]
    assert of(lines, "forward", "label")["comfyui"].startswith("ComfyUI 0.")
    floors = of(lines, "forward", "floor_seconds")
    attending = of(lines, "forward", "floor_attention_seconds")["wan-duet"]
    assert 0 < attending < floors["wan-duet"]
    assert floors["comfyui"] is None
    assert [line["size"] for line in lines if line["table"] == "ceilings"] == ["64x64x5"]
    # The same weights in both: they differ by rounding only.
    errors = of(lines, "forward_error", "rms_error")
    assert list(errors) == ["wan-duet", "comfyui"]
    assert 1e-2 < errors["wan-duet"] < errors["comfyui"] < 1e-1
    seconds = of(lines, "forward", "seconds")
    ratios = of(lines, "forward_ratio", "ratio")
    assert list(ratios) == [plain, patched, "comfyui"]
    # Toy passes take milliseconds, and the lines show tenths of them: that much may be missing.
    ours, theirs = seconds["wan-duet"], seconds["comfyui"]
    rounding = ours / theirs * 5e-5 * (1 / ours + 1 / theirs)
    assert ratios["comfyui"] == pytest.approx(ours / theirs, abs=1e-3 + rounding)
    slices = [line for line in lines if line["table"] != "ceilings"]
    assert {(line["layers"], line["of_layers"]) for line in slices} == {(1, 2)}


def test_step_cache(here: Callable[..., Lines]):
    lines = here("step_cache", "--limit", "1", "--methods", "cfg", "--steps", "14")

    assert [line["cache"] for line in lines] == ["none", "cfg"]
    assert lines[1]["passes"] < lines[0]["passes"] == 1
    assert lines[1]["latent_db"] > 30


def test_attention_says_what_is_missing(here: Callable[..., Lines]):
    lines = here("attention", "--only", "sage", "--sizes", "480p81")

    assert [line["backend"] for line in lines] == ["sage", "auto"]
    if not lines[0]["machine"]["memory_gib"]:
        assert lines[0]["note"] == "needs an NVIDIA GPU"
    assert lines[1]["note"].startswith("chooses ")


def test_core_hands_over_half_way():
    core = import_script("server").core([Path("high.safetensors"), Path("low.safetensors")])
    nodes = {name: node["inputs"] for name, node in core.sampler(3, 8).items()}

    first, second = nodes["first"], nodes["sampler"]
    assert (first["start_at_step"], first["end_at_step"], second["start_at_step"]) == (0, 4, 4)
    assert (first["add_noise"], second["add_noise"]) == ("enable", "disable")
    assert (first["return_with_leftover_noise"], second["latent_image"]) == ("enable", ["first", 0])
    assert (first["noise_seed"], first["steps"], second["steps"]) == (3, 8, 8)
    assert nodes[nodes[first["model"][0]]["model"][0]]["unet_name"] == "high.safetensors"
    assert nodes[nodes[second["model"][0]]["model"][0]]["unet_name"] == "low.safetensors"


def test_server_beside_core(
    here: Callable[..., Lines], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """With servers that do nothing; the last one fails at its second prompt."""
    script, started, asked = import_script("server"), [], []

    def ran(prompt: Any, _: float) -> Any:
        asked.append({made["class_type"] for made in prompt.values()})
        failed = len(asked) == 5
        return SimpleNamespace(
            status="error" if failed else "success",
            error={"exception_message": "Out of memory.\nMore."} if failed else None,
            texts=lambda _: ["older", "High 4 | Low 4"],
        )

    @contextmanager
    def server(*_: Any, with_pack: bool) -> Iterator[Any]:
        started.append(with_pack)
        yield SimpleNamespace(pid=os.getpid(), version="0.0.1", run=ran)

    monkeypatch.setattr(script, "server", server)
    lines = here("server", "--folder", str(tmp_path), "--toy", "--beside", "core")

    assert started == [True, False]
    assert [("WanDuetMoESampler" in of_prompt) for of_prompt in asked] == 3 * [True] + 2 * [False]
    prompts = [line for line in lines if line["table"] == "server"]
    names = ["none yet", "first, cold", "second", "twice the steps"]
    assert [line["prompt"] for line in prompts] == [*names, *names[:3]]
    assert [line["contestant"] for line in prompts] == 4 * ["wan-duet"] + 3 * ["core"]
    assert [line.get("failed") for line in prompts] == 6 * [None] + ["Out of memory."]
    assert prompts[4]["label"] == "ComfyUI 0.0.1"
    assert prompts[3]["shown"] == ["High 4 | Low 4"]
    assert all("private_ram_gib" in line for line in prompts[:6])
    assert list(of(lines, "server_beyond", "step_seconds")) == ["wan-duet"]
