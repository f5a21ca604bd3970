"""The pack as the Comfy registry would take and install it."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.comfy.server import ComfyServer, server_environment

from .contract import describe
from .source import REPOSITORY

ARCHIVE_FOLDER = "wan-duet.registry_1"
"""An unusual folder name: the pack may not depend on what it is called."""

OPTIONAL_PACKAGES = ("triton", "gguf", "comfy_kitchen")

LARGEST_ARCHIVE = 65_000_000
"""Bytes; at most 60 million of them are the tiny models."""


def run(command: list[str], folder: Path) -> str:
    """Runs a command without a terminal, telemetry or the user's settings; returns its output."""
    environment = os.environ | {"HOME": str(folder.parent), "DO_NOT_TRACK": "1"}
    process = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stdout
    return process.stdout


def comfy_cli(*arguments: str, folder: Path) -> str:
    """Runs comfy-cli in a folder."""
    options = ["--skip-prompt", "--no-enable-telemetry"]
    return run([sys.executable, "-m", "comfy_cli", *options, *arguments], folder)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the working tree without anything that git ignores."""
    if not (REPOSITORY / ".git").exists() or not shutil.which("git"):
        pytest.skip("not a git checkout")
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    files = subprocess.check_output(listing, cwd=REPOSITORY, text=True).split("\0")
    folder = tmp_path_factory.mktemp("registry") / "checkout"
    for name in files:
        if (REPOSITORY / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, folder / name)
    run(["git", "init", "--quiet"], folder)
    run(["git", "add", "--all"], folder)
    return folder


@pytest.fixture(scope="module")
def archive(checkout: Path) -> zipfile.ZipFile:
    """What `comfy node publish` would upload."""
    comfy_cli("node", "pack", folder=checkout)
    (path,) = checkout.glob("*.zip")
    return zipfile.ZipFile(path)


def test_comfy_cli_validates_the_pack(checkout: Path):
    output = comfy_cli("node", "validate", folder=checkout)

    assert "All validation checks passed" in output
    assert "Warning" not in output


def test_archive_holds_the_pack_and_no_more(archive: zipfile.ZipFile):
    names = archive.namelist()
    tops = {name.split("/")[0] for name in names}

    needed = {"__init__.py", "nodes", "wan_model", "js", "workflows", "subgraphs", "models"}
    assert needed | {"pyproject.toml", "requirements.txt", "LICENSE", "README.md"} <= tops
    assert not tops & {"tests", "benchmarks", "tools", ".ci", ".git", ".venv"}
    assert not [name for name in names if "__pycache__" in name]
    assert sum(entry.compress_size for entry in archive.infolist()) < LARGEST_ARCHIVE


def test_archive_holds_the_tiny_models_and_the_templates_images(archive: zipfile.ZipFile):
    folders = [
        Path(name).parts[1]
        for name in archive.namelist()
        if Path(name).match("models/*/wan22-tiny-*.safetensors")
    ]
    assert {folder: folders.count(folder) for folder in folders} == {
        "diffusion_models": 5,
        "loras": 4,
        "text_encoders": 1,
        "vae": 2,
    }
    images = ("wan22-tiny-circle.png", "wan22-lake-morning.jpg", "wan22-lake-dusk.jpg")
    assert {f"workflows/input/{name}" for name in images} <= set(archive.namelist())


def small_prompt() -> dict[str, Any]:
    """The tiny T2V model's workflow, at a size that takes a second."""
    folder = REPOSITORY / "workflows" / "api"
    texts = [path.read_text("utf-8") for path in sorted(folder.glob("*.json"))]
    prompt = json.loads(next(text for text in texts if "wan22-tiny-t2v-high-noise" in text))
    small = {"width": 64, "height": 64, "length": 5, "steps": 2}
    for node in prompt.values():
        node["inputs"] |= {name: small[name] for name in node["inputs"].keys() & small.keys()}
    return prompt


@pytest.mark.comfy
def test_archive_runs_in_a_fresh_comfyui(
    archive: zipfile.ZipFile, comfyui: Path, comfy_server: ComfyServer, tmp_path: Path
):
    """In a folder of spaces and Chinese, with several users, without cache or optional packages."""
    base, hidden = tmp_path / "我的 ComfyUI", tmp_path / "hidden"
    archive.extractall(base / "custom_nodes" / ARCHIVE_FOLDER)
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text(
        f"import sys\nsys.modules.update(dict.fromkeys({OPTIONAL_PACKAGES}))\n"
    )
    paths = (str(hidden), server_environment()["PYTHONPATH"])
    with ComfyServer(
        comfyui,
        base,
        arguments=("--multi-user", "--cache-none"),
        environment={"PYTHONPATH": os.pathsep.join(paths)},
    ) as server:
        installed = describe(server.object_info(), ARCHIVE_FOLDER)
        scripts = [path for path in server.get("/extensions") if ARCHIVE_FOLDER in path]
        templates = server.get("/workflow_templates")

        assert installed.keys() == describe(comfy_server.object_info(), "wan-duet").keys()
        assert scripts
        assert all(server.request(path) for path in scripts)
        assert templates.get(ARCHIVE_FOLDER)
        result = server.run(small_prompt())
        assert result.status == "success", result.error
        assert list((base / "user" / "wanduet").rglob("*.safetensors"))


def test_library_installs_and_imports_without_comfyui(checkout: Path, tmp_path: Path):
    target = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation"]
    run([*pip, "--quiet", "--target", str(target), str(checkout)], tmp_path)

    script = (
        f"import sys, json; sys.path.insert(0, {str(target)!r}); import wan_model; "
        "print(json.dumps([wan_model.__file__, sorted(sys.modules)]))"
    )
    file, modules = json.loads(run([sys.executable, "-c", script], tmp_path))
    assert file.startswith(str(target))
    assert not {"comfy", "folder_paths", "comfy_api", "nodes"} & set(modules)
    assert (target / "wan_model" / "sampling").is_dir()


def test_both_lists_of_requirements_agree(checkout: Path):
    # The registry reads pyproject.toml; a manual install and ComfyUI-Manager read the other.
    listed = [
        line for line in (checkout / "requirements.txt").read_text().splitlines() if line[:1] != "#"
    ]
    text = (checkout / "pyproject.toml").read_text()
    dependencies = text.partition("\ndependencies = ")[2].partition("\n")[0]
    assert json.loads(dependencies) == listed
