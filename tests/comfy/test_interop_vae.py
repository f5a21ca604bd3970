"""Our VAE in core's nodes against core's own, and our decode node with core's VAE."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from .graphs import VAE_21, VAE_22, Prompt, node, save, vae
from .server import ComfyServer
from .stock import difference, upload_images

pytestmark = pytest.mark.comfy

VAES = {**vae(VAE_21, "ours"), "stock": node("VAELoader", vae_name=VAE_21)}
TILES = {"tile_size": 64, "overlap": 32, "temporal_size": 64, "temporal_overlap": 8}


@pytest.fixture(scope="module")
def video(comfy_server: ComfyServer, tmp_path_factory: pytest.TempPathFactory) -> Prompt:
    """Nine frames (48, 64): ("video", 0)."""
    folder = tmp_path_factory.mktemp("images")
    first, second = upload_images(comfy_server, folder)
    return {
        "first": node("LoadImage", image=first),
        "second": node("LoadImage", image=second),
        "start": node("RepeatImageBatch", image=("first", 0), amount=4),
        "end": node("RepeatImageBatch", image=("second", 0), amount=5),
        "video": node("ImageBatch", image1=("start", 0), image2=("end", 0)),
    }


def run(server: ComfyServer, prompt: Prompt) -> dict[str, dict[str, Tensor]]:
    """Runs a prompt and returns what its `save` nodes wrote, by name."""
    result = server.run(prompt)
    assert result.status == "success", result.error
    names = [n["inputs"]["name"] for n in prompt.values() if "SaveTensors" in n["class_type"]]
    return {name: load_file(server.output / f"{name}.safetensors") for name in names}


def test_a_saved_vae_is_the_official_file_again(comfy_server: ComfyServer):
    prompt = {**VAES, "save": node("VAESave", vae=("ours", 0), filename_prefix="vae/ours")}
    result = comfy_server.run(prompt)
    assert result.status == "success", result.error
    (path,) = comfy_server.output.glob("vae/ours*.safetensors")
    saved = load_file(path)
    original = load_file(comfy_server.base / "models" / "vae" / VAE_21)
    assert saved.keys() == original.keys()
    assert all(torch.equal(saved[name], weight) for name, weight in original.items())


def test_encode_and_decode(comfy_server: ComfyServer, video: Prompt):
    prompt = {**VAES, **video}
    for who in ("ours", "stock"):
        prompt[f"{who}_encode"] = node("VAEEncode", pixels=("video", 0), vae=(who, 0))
        latent = ("ours_encode", 0)
        prompt[f"{who}_decode"] = node("VAEDecode", samples=latent, vae=(who, 0))
        prompt[f"{who}_duet"] = node("WanDuetVAEDecode", samples=latent, vae=(who, 0), tiling="off")
        prompt |= save(who, latent=(f"{who}_encode", 0), image=(f"{who}_decode", 0))
        prompt |= save(f"{who}_duet", node_id=f"save_{who}_duet", image=(f"{who}_duet", 0))
    saved = run(comfy_server, prompt)

    images = [saved[name]["image"] for name in ("stock", "ours", "ours_duet", "stock_duet")]
    assert saved["ours"]["samples"].shape == (1, 16, 3, 6, 8)
    assert images[0].shape == (9, 48, 64, 3)
    assert images[0].std() > 0.01
    assert difference(saved["ours"]["samples"], saved["stock"]["samples"]) <= 1e-5
    assert all(difference(image, images[0]) <= 1e-5 for image in images)


def test_tiled_nodes(comfy_server: ComfyServer, video: Prompt):
    size = {"upscale_method": "bilinear", "width": 112, "height": 96, "crop": "disabled"}
    prompt = {**VAES, **video, "large": node("ImageScale", image=("video", 0), **size)}
    pixels = ("large", 0)
    prompt["whole"] = node("VAEEncode", pixels=pixels, vae=("ours", 0))
    prompt["whole_image"] = node("VAEDecode", samples=("whole", 0), vae=("ours", 0))
    prompt |= save("whole", latent=("whole", 0), image=("whole_image", 0))
    for who in ("ours", "stock"):
        prompt[f"{who}_e"] = node("VAEEncodeTiled", pixels=pixels, vae=(who, 0), **TILES)
        prompt[f"{who}_d"] = node("VAEDecodeTiled", samples=("whole", 0), vae=(who, 0), **TILES)
        prompt |= save(f"{who}_tiled", latent=(f"{who}_e", 0), image=(f"{who}_d", 0))
    duet = {"samples": ("whole", 0), "tiling": "on"}
    prompt["duet"] = node("WanDuetVAEDecode", vae=("stock", 0), **duet)
    prompt |= save("duet", node_id="save_duet", image=("duet", 0))
    saved = run(comfy_server, prompt)

    whole = saved["whole"]
    for key in ("samples", "image"):
        ours, stock = (rms(saved[f"{who}_tiled"][key] - whole[key]) for who in ("ours", "stock"))
        assert saved["ours_tiled"][key].shape == whole[key].shape
        assert 0 < ours <= 1.2 * stock
    assert saved["duet"]["image"].shape == whole["image"].shape


def test_wan22_round_trip(comfy_server: ComfyServer, video: Prompt):
    size = {"upscale_method": "bilinear", "width": 64, "height": 64, "crop": "disabled"}
    prompt = {
        **vae(VAE_22),
        **video,
        "square": node("ImageScale", image=("video", 0), **size),
        "encode": node("VAEEncode", pixels=("square", 0), vae=("vae", 0)),
        "decode": node("VAEDecode", samples=("encode", 0), vae=("vae", 0)),
        "duet": node("WanDuetVAEDecode", samples=("encode", 0), vae=("vae", 0), tiling="auto"),
        "tiled": node("VAEDecodeTiled", samples=("encode", 0), vae=("vae", 0), **TILES),
        **save("wan22", latent=("encode", 0), image=("decode", 0)),
        **save("wan22_duet", image=("duet", 0)),
        **save("wan22_tiled", image=("tiled", 0)),
    }
    saved = run(comfy_server, prompt)

    assert saved["wan22"]["samples"].shape == (1, 48, 3, 4, 4)
    assert saved["wan22"]["image"].shape == (9, 64, 64, 3)
    assert saved["wan22"]["image"].std() > 0.01
    assert difference(saved["wan22"]["image"], saved["wan22_duet"]["image"]) <= 1e-6
    assert difference(saved["wan22"]["image"], saved["wan22_tiled"]["image"]) <= 1e-6


def rms(error: Tensor) -> float:
    """Root of the mean square."""
    return torch.sqrt((error.float() ** 2).mean()).item()


def test_memory_that_does_not_suffice(comfy_server: ComfyServer):
    """Without tiling it is an error; `test_memory_card` has what *auto* does."""
    name = "short"
    prompt = {
        **vae(VAE_21),
        "short": node("WanDuetTestShortOfMemory", vae=("vae", 0), name=name),
        "latent": node("EmptyHunyuanLatentVideo", width=64, height=48, length=5, batch_size=1),
        "decode": node("WanDuetVAEDecode", samples=("latent", 0), vae=("short", 0), tiling="off"),
        **save(name, image=("decode", 0)),
    }
    result = comfy_server.run(prompt)

    assert result.status == "error"
    lines = (comfy_server.output / f"{name}.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [None]
