"""Preview VAEs in a real ComfyUI: from both folders, beside core's own, and wrong files."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.parity.recipe import fill
from wan_model import load_vae
from wan_model.vae.preview import PreviewVaeConfig, build_preview_vae

from .graphs import Prompt, node, save, vae
from .server import ComfyServer
from .stock import difference, empty_latent, upload_images

pytestmark = pytest.mark.comfy

OURS, LIGHT, LARGE = (
    f"previews/{name}.safetensors" for name in ("taew2_1", "lighttaew2_1", "taew2_2")
)
APPROX = "test_taew2_1.safetensors"
OTHER, CUT, DECODER = (
    f"previews/{name}.safetensors" for name in ("taehv", "taew2_1_cut", "taew2_1_decoder")
)
TILES = {"tile_size": 64, "overlap": 32, "temporal_size": 64, "temporal_overlap": 8}


def write_preview(file: Path, *, z_dim: int = 16, encoder: int = 64) -> None:
    """A file of the released widths, the only ones that core knows, in the usual format."""
    config = PreviewVaeConfig(
        variant="wan2.2" if z_dim == 48 else "wan2.1",
        z_dim=z_dim,
        family="TAEHV",
        encoder_dim=encoder,
        decoder_dim=64,
        stage_dims=(256, 128, 64),
    )
    dtype = torch.float32 if "light" in file.name else torch.float16
    save_file(fill(build_preview_vae(config)).to(dtype).state_dict(), file)


@pytest.fixture(scope="module", autouse=True)
def files(comfy_server: ComfyServer) -> Iterator[Path]:
    """The models folder, with preview VAEs while these tests run."""
    models = comfy_server.base / "models"
    (models / "vae" / "previews").mkdir()
    (models / "vae_approx").mkdir(exist_ok=True)
    for name in (OURS, LIGHT):
        write_preview(models / "vae" / name)
    write_preview(models / "vae" / LARGE, z_dim=48)
    write_preview(models / "vae" / DECODER, encoder=0)
    data = (models / "vae" / OURS).read_bytes()
    (models / "vae" / CUT).write_bytes(data[:-1000])
    (models / "vae" / OTHER).write_bytes(data)
    (models / "vae_approx" / APPROX).write_bytes(data)
    (models / "vae_approx" / "taesd_decoder.safetensors").write_bytes(data)
    yield models
    shutil.rmtree(models / "vae" / "previews")
    for name in (APPROX, "taesd_decoder.safetensors"):
        (models / "vae_approx" / name).unlink()


@pytest.fixture(scope="module")
def video(comfy_server: ComfyServer, tmp_path_factory: pytest.TempPathFactory) -> Prompt:
    """Five frames (48, 64): ("video", 0)."""
    first, second = upload_images(comfy_server, tmp_path_factory.mktemp("images"))
    return {
        "first": node("LoadImage", image=first),
        "second": node("LoadImage", image=second),
        "end": node("RepeatImageBatch", image=("second", 0), amount=4),
        "video": node("ImageBatch", image1=("first", 0), image2=("end", 0)),
    }


def test_light_tae_gives_what_core_gives(comfy_server: ComfyServer, video: Prompt):
    prompt = {**video, **vae(LIGHT, "ours"), "stock": node("VAELoader", vae_name=LIGHT)}
    for who in ("ours", "stock"):
        prompt[f"{who}_latent"] = node("VAEEncode", pixels=("video", 0), vae=(who, 0))
        latent = ("ours_latent", 0)
        prompt[f"{who}_image"] = node("VAEDecode", samples=latent, vae=(who, 0))
        prompt |= save(f"{who}_light", latent=(f"{who}_latent", 0), image=(f"{who}_image", 0))
    result = comfy_server.run(prompt)
    assert result.status == "success", result.error
    ours, stock = (
        load_file(comfy_server.output / f"{who}_light.safetensors") for who in ("ours", "stock")
    )
    assert ours["samples"].shape == (1, 16, 2, 6, 8)
    assert difference(ours["samples"], stock["samples"]) <= 1e-5
    assert ours["image"].shape == (5, 48, 64, 3)
    assert ours["image"].std() > 0.05
    # Core does not limit these images.
    assert difference(ours["image"], stock["image"].clamp(0, 1)) <= 1e-5


@pytest.mark.parametrize(("name", "folder"), [(OURS, "vae"), (APPROX, "vae_approx")])
def test_taehv_in_decoding_nodes(
    comfy_server: ComfyServer, files: Path, video: Prompt, name: str, folder: str
):
    latent = ("latent", 0)
    prompt = {
        **video,
        **vae(name),
        "latent": node("VAEEncode", pixels=("video", 0), vae=("vae", 0)),
        "core": node("VAEDecode", samples=latent, vae=("vae", 0)),
        "tiled": node("VAEDecodeTiled", samples=latent, vae=("vae", 0), **TILES),
        "duet": node("WanDuetVAEDecode", samples=latent, vae=("vae", 0), tiling="auto"),
        **{
            key: value
            for node_id in ("core", "tiled", "duet")
            for key, value in save(f"preview_{node_id}", image=(node_id, 0)).items()
        },
        **save("preview_latent", latent=latent),
        **save("preview_video", image=("video", 0)),
    }
    result = comfy_server.run(prompt)
    assert result.status == "success", result.error
    assert result.texts("vae") == ["TAEHV preview VAE for Wan 2.1 (16 channels), fp16"]
    saved = {
        key: load_file(comfy_server.output / f"preview_{key}.safetensors")
        for key in ("core", "tiled", "duet", "latent", "video")
    }

    library = load_vae(files / folder / name, dtype=torch.float32)
    pixels = saved["video"]["image"].movedim(-1, 0)[None] * 2 - 1
    expected = library.encode(pixels, normalized=False)
    assert difference(saved["latent"]["samples"], expected) <= 1e-5
    decoded = library.decode(expected, normalized=False)[0].movedim(0, -1) / 2 + 0.5
    for key in ("core", "duet", "tiled"):
        assert difference(saved[key]["image"], decoded.clamp(0, 1)) <= 1e-5


def test_only_previews_of_wan_are_listed(comfy_server: ComfyServer):
    node_info = comfy_server.object_info("WanDuetVAELoader")["WanDuetVAELoader"]
    options = str(node_info["input"]["required"]["vae_name"])
    assert APPROX in options
    assert LIGHT in options
    assert "taesd_decoder" not in options


def decoded(name: str) -> Prompt:
    """A 16-channel latent, decoded with a preview VAE."""
    decode = node("WanDuetVAEDecode", samples=("latent", 0), vae=("vae", 0), tiling="auto")
    return {**vae(name), **empty_latent(), "decode": decode, **save("never", image=("decode", 0))}


def encoded(name: str) -> Prompt:
    """An image, encoded with a preview VAE."""
    return {
        **vae(name),
        "image": node("WanDuetTestImage", seed=1, width=64, height=64, count=1, channels=3),
        "encode": node("VAEEncode", pixels=("image", 0), vae=("vae", 0)),
        **save("never", latent=("encode", 0)),
    }


REFUSED = {
    "channels": (
        decoded(LARGE),
        "decode",
        ["VAE does not fit the latent", "Got a VAE for 48", "wan_2.1_vae.safetensors"],
    ),
    "another model": (decoded(OTHER), "vae", ["taehv", "one of HunyuanVideo", "taew2_1"]),
    "truncated": (decoded(CUT), "vae", ["taew2_1_cut", "cut off", "Download the file again"]),
    "no encoder": (encoded(DECODER), "encode", ["cannot encode", "Use the full VAE"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_files_are_refused(comfy_server: ComfyServer, case: str):
    prompt, where, words = REFUSED[case]
    result = comfy_server.run(prompt)
    assert result.error is not None
    assert result.error["node_id"] == where
    message = result.error["exception_message"]
    assert [word for word in words if word not in message] == []
