"""wan22-tiny is there on every install: in every loader, and through its own workflows."""

import json
import runpy
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

from .server import REPOSITORY, ComfyServer
from .videos import saved_video

DITS = {
    "wan22-tiny-t2v-high-noise.safetensors",
    "wan22-tiny-t2v-low-noise.safetensors",
    "wan22-tiny-i2v-high-noise.safetensors",
    "wan22-tiny-i2v-low-noise.safetensors",
    "wan22-tiny-ti2v.safetensors",
}
VAES = {"wan22-tiny-wan21-vae.safetensors", "wan22-tiny-wan22-vae.safetensors"}
TEXT_ENCODERS = {"wan22-tiny-umt5.safetensors"}

LORAS = {
    f"wan22-tiny-{kind}-lightning-{expert}-noise.safetensors"
    for kind in ("t2v", "i2v")
    for expert in ("high", "low")
}

LOADERS = (
    ("WanDuetModelLoader", "model_name", DITS),
    ("WanDuetExpertLoader", "high_noise_model", DITS),
    ("WanDuetExpertLoader", "low_noise_model", DITS),
    ("WanDuetVAELoader", "vae_name", VAES),
    ("WanDuetTextEncoderLoader", "text_encoder_name", TEXT_ENCODERS),
    ("UNETLoader", "unet_name", DITS),
    ("VAELoader", "vae_name", VAES),
    ("CLIPLoader", "clip_name", TEXT_ENCODERS),
    ("WanDuetLoraPair", "lora_high", LORAS),
    ("LoraLoaderModelOnly", "lora_name", LORAS),
)

WORKFLOWS = {
    "Wan 2.2 Tiny Text to Video (No Download)": 16,
    "Wan 2.2 Tiny Image to Video (No Download)": 16,
    "Wan 2.2 Tiny Text or Image to Video (No Download)": 24,
    "Wan 2.2 Tiny Text to Video 4 Steps (No Download)": 16,
    "Wan 2.2 Tiny Image to Video 4 Steps (No Download)": 16,
}
"""Frames per second of each."""

IMAGE = "wan22-tiny-circle.png"


@pytest.mark.comfy
@pytest.mark.parametrize(("loader", "widget", "names"), LOADERS)
def test_every_loader_lists_it(
    comfy_server: ComfyServer, loader: str, widget: str, names: set[str]
):
    kind, *options = comfy_server.object_info(loader)[loader]["input"]["required"][widget]
    listed = options[0]["options"] if kind == "COMBO" else kind

    assert {name for name in listed if name.startswith("wan22-tiny-")} == names
    assert len(listed) == len(set(listed)) > len(names)


@pytest.mark.comfy
@pytest.mark.parametrize("name", WORKFLOWS)
def test_its_workflows_run_as_they_are(comfy_server: ComfyServer, name: str):
    path = REPOSITORY / "workflows" / "api" / f"{name}.json"
    prompt = json.loads(path.read_text("utf-8"))
    (plan,) = comfy_server.post("/wanduet/check", {"prompt": prompt})["automatic"].values()
    result = comfy_server.run(prompt)

    few = "4 Steps" in name
    assert ((plan["steps"], plan["cfg_high"], plan["cfg_low"]) == (4, 1, 1)) == few
    assert any("Lightning" in line for line in plan["why"]) == few
    assert result.status == "success", result.error
    frames, rate = saved_video(comfy_server, result)
    side = 192 if "Text or Image" in name else 128
    assert [frame.shape for frame in frames] == [(side, side, 3)] * 17
    assert rate == WORKFLOWS[name]


class FolderPaths(ModuleType):
    """As much of ComfyUI's module as the pack uses, with an input folder of its own."""

    def __init__(self, input_folder: Path) -> None:
        super().__init__("folder_paths")
        self.input_folder = input_folder
        self.added: dict[str, str] = {}

    def get_input_directory(self) -> str:
        return str(self.input_folder)

    def add_model_folder_path(self, name: str, path: str, is_default: bool = False) -> None:
        assert not is_default  # the person's own folders come first
        self.added[name] = path


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    """The part of a pack that concerns its files, with one model and one image."""
    code = Path("nodes", "_comfy", "host", "shipped.py")
    images = Path("workflows", "input")
    for folder in (code.parent, images, "models/vae"):
        (tmp_path / "pack" / folder).mkdir(parents=True)
    shutil.copy2(REPOSITORY / code, tmp_path / "pack" / code)
    shutil.copy2(REPOSITORY / images / IMAGE, tmp_path / "pack" / images)
    (tmp_path / "input").mkdir()
    return tmp_path / "pack"


def start(pack: Path, monkeypatch: pytest.MonkeyPatch) -> FolderPaths:
    """Does what the pack does when ComfyUI loads it."""
    folder_paths = FolderPaths(pack.parent / "input")
    monkeypatch.setitem(sys.modules, "folder_paths", folder_paths)
    module = runpy.run_path(str(pack / "nodes" / "_comfy" / "host" / "shipped.py"))
    module["offer_shipped_files"]()
    return folder_paths


def test_folders_that_somebody_deleted_are_left_out(pack: Path, monkeypatch: pytest.MonkeyPatch):
    assert start(pack, monkeypatch).added == {"vae": str(pack / "models" / "vae")}

    shutil.rmtree(pack / "models")
    shutil.rmtree(pack / "workflows")
    assert not start(pack, monkeypatch).added


def test_an_image_of_the_same_name_is_kept(pack: Path, monkeypatch: pytest.MonkeyPatch):
    image = start(pack, monkeypatch).input_folder / IMAGE
    assert image.read_bytes() == (pack / "workflows" / "input" / IMAGE).read_bytes()

    image.write_bytes(b"mine")
    start(pack, monkeypatch)
    assert image.read_bytes() == b"mine"


def test_no_input_folder_stops_nothing(pack: Path, monkeypatch: pytest.MonkeyPatch):
    (pack.parent / "input").rmdir()
    assert start(pack, monkeypatch).added
