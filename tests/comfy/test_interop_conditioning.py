"""Core's own Wan conditioning nodes, noise masks and VAEs around our MODEL and VAE."""

from typing import Any

import pytest
from torch import Tensor

from .graphs import VAE_21, VAE_22, Prompt, node, vae
from .server import ComfyServer
from .stock import (
    I2V_HIGH,
    ROUNDING,
    T2V_HIGH,
    TI2V,
    difference,
    empty_latent,
    ksampler,
    loaders,
    relative,
    run_to_tensors,
    upload_images,
)

pytestmark = pytest.mark.comfy

SIZE = {"width": 64, "height": 48, "length": 9, "batch_size": 1}


@pytest.fixture(scope="module")
def images(comfy_server: ComfyServer, tmp_path_factory: pytest.TempPathFactory) -> Prompt:
    """Two images: ("a", 0), ("b", 0), their masks at output 1."""
    names = upload_images(comfy_server, tmp_path_factory.mktemp("images"))
    return {name: node("LoadImage", image=file) for name, file in zip("ab", names, strict=True)}


def sample_i2v(server: ComfyServer, prompt: Prompt, class_type: str, **inputs: Any) -> Any:
    """Conditions with either VAE and samples with either MODEL: latents by "MODEL_VAE"."""
    prompt = {**prompt, **vae(VAE_21, "ours_vae"), "stock_vae": node("VAELoader", vae_name=VAE_21)}
    latents = {}
    for who, nodes in loaders(I2V_HIGH).items():
        prompt |= nodes
        for with_vae in ("stock_vae", "ours_vae"):
            text = {"positive": ("positive", 0), "negative": ("negative", 0)}
            size = f"size_{with_vae}"
            prompt[size] = node(class_type, vae=(with_vae, 0), **text, **SIZE, **inputs)
            links = {"positive": (size, 0), "negative": (size, 1), "latent_image": (size, 2)}
            name = f"{who}_{with_vae}"
            prompt |= ksampler((who, 0), name, cfg=3.5, **links)
            latents[name] = (name, 0)
    return run_to_tensors(server, prompt, latents)


def check_i2v(saved: dict[str, Tensor]) -> Tensor:
    stock = saved["stock_stock_vae"]
    assert relative(saved["ours_stock_vae"], stock) <= ROUNDING
    assert relative(saved["stock_ours_vae"], stock) <= ROUNDING
    assert relative(saved["ours_ours_vae"], stock) <= ROUNDING
    return stock


def test_image_to_video_nodes(comfy_server: ComfyServer, images: Prompt):
    start = sample_i2v(comfy_server, images, "WanImageToVideo", start_image=("a", 0))
    other = sample_i2v(comfy_server, images, "WanImageToVideo", start_image=("b", 0))
    both = {"start_image": ("a", 0), "end_image": ("b", 0)}
    first_last = sample_i2v(comfy_server, images, "WanFirstLastFrameToVideo", **both)

    results = [check_i2v(saved) for saved in (start, other, first_last)]
    assert difference(results[0], results[1]) > 0.01
    assert difference(results[0], results[2]) > 0.01


def test_ti2v_latent_node_with_a_noise_mask(comfy_server: ComfyServer, images: Prompt):
    size = {**SIZE, "height": 64}
    prompt = {
        **images,
        **vae(VAE_22),
        "latent": node("Wan22ImageToVideoLatent", vae=("vae", 0), start_image=("a", 0), **size),
        "plain": node("Wan22ImageToVideoLatent", vae=("vae", 0), **size),
    }
    latents = {"start": ("latent", 0)}
    for who, nodes in loaders(TI2V).items():
        prompt |= nodes
        for source in ("latent", "plain"):
            options = {"cfg": 5.0, "latent_image": (source, 0)}
            prompt |= ksampler((who, 0), f"{who}_{source}", **options)
            latents[f"{who}_{source}"] = (f"{who}_{source}", 0)
    saved = run_to_tensors(comfy_server, prompt, latents)

    for source in ("latent", "plain"):
        assert relative(saved[f"ours_{source}"], saved[f"stock_{source}"]) <= ROUNDING
    known = saved["ours_latent"][:, :, 0], saved["start"][:, :, 0]
    assert difference(*known) < 1e-5
    assert difference(saved["ours_latent"], saved["ours_plain"]) > 0.01


def test_inpainting_with_a_noise_mask(comfy_server: ComfyServer, images: Prompt):
    prompt = {**images, **empty_latent()}
    latents = {"content": ("content", 0)}
    for who, nodes in loaders(T2V_HIGH).items():
        prompt |= nodes
        name = f"{who}_masked"
        prompt |= ksampler((who, 0), name, denoise=0.8, latent_image=("masked", 0), cfg=2.0)
        latents[name] = (name, 0)
    prompt |= ksampler(("stock", 0), "content", seed=1)
    prompt["masked"] = node("SetLatentNoiseMask", samples=("content", 0), mask=("a", 1))
    saved = run_to_tensors(comfy_server, prompt, latents)

    assert relative(saved["ours_masked"], saved["stock_masked"]) <= ROUNDING
    assert difference(saved["ours_masked"], saved["content"]) > 0.01
