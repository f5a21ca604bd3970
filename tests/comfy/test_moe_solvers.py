"""The official solvers through our sampler against loops over the same network, written here."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from wan_model import load_dit, make_sigmas, solve
from wan_model.sampling import guide, make_solver, model_timestep
from wan_model.vae import wan21, wan22

from .graphs import T2V, TI2V, VAE_22, experts, model, moe_sampler, node, random_text, save, vae
from .server import ComfyServer
from .stock import ROUNDING, empty_latent, relative

pytestmark = pytest.mark.comfy

SEED = 7
STEPS = 8
TEXT: dict[str, Any] = {"positive": ("positive", 0), "negative": ("negative", 0)}


def embeddings(tokens: int) -> list[Tensor]:
    """Returns what the random text nodes give, positive and negative."""
    return [
        torch.randn(1, tokens, 64, generator=torch.Generator().manual_seed(node["inputs"]["seed"]))
        for node in random_text(64, tokens).values()
    ]


def noise(shape: tuple[int, ...]) -> Tensor:
    """Returns ComfyUI's noise."""
    return torch.randn(shape, generator=torch.manual_seed(SEED))


def statistics(module: Any) -> tuple[Tensor, Tensor]:
    """Returns mean and standard deviation of a VAE's latents, each (z, 1, 1, 1)."""
    return tuple(
        torch.tensor(values).view(-1, 1, 1, 1) for values in (module.LATENT_MEAN, module.LATENT_STD)
    )


def guided(
    dit: Callable[..., Tensor], x: Tensor, timestep: Tensor, texts: list[Tensor], scale: float
) -> Tensor:
    positive, negative = (dit(x, timestep, text) for text in texts)
    return guide(positive, negative, scale)


@torch.no_grad()
@pytest.mark.parametrize("solver", ["unipc", "dpm++", "euler"])
def test_two_experts(comfy_server: ComfyServer, toy_models: Path, solver: str):
    result = comfy_server.run(
        {
            **experts(T2V),
            **random_text(64, 20),
            **empty_latent(),
            **moe_sampler(
                latent_image=("latent", 0),
                seed=SEED,
                steps=STEPS,
                sampler=solver,
                cfg_high=0.0,
                cfg_low=0.0,
                shift=0.0,
                **TEXT,
            ),
            **save("two_experts", latent=("sampler", 0)),
        }
    )
    assert result.status == "success", result.error
    found = load_file(comfy_server.output / "two_experts.safetensors")["samples"]

    high, low = (
        load_dit(toy_models / "diffusion_models" / name, dtype=torch.float32) for name in T2V
    )
    texts = embeddings(20)

    def velocity(x: Tensor, _: float, timestep: float) -> Tensor:
        dit, scale = (high, 4.0) if timestep >= 875 else (low, 3.0)
        return guided(dit, x, torch.tensor([timestep], dtype=torch.float32), texts, scale)

    x0 = solve(solver, velocity, noise(found.shape), make_sigmas(solver, STEPS, 12.0))
    mean, std = statistics(wan21)
    assert found.std() > 0.5
    assert relative(found, x0 * std + mean) <= ROUNDING


@torch.no_grad()
@pytest.mark.parametrize("solver", ["unipc", "dpm++", "euler"])
def test_ti2v_with_a_start_image(comfy_server: ComfyServer, toy_models: Path, solver: str):
    result = comfy_server.run(
        {
            **model(TI2V),
            **random_text(64, 20),
            **vae(VAE_22),
            "image": node("WanDuetTestImage", seed=3, width=96, height=64, count=1, channels=3),
            "size": node(
                "WanDuetImageToVideo",
                vae=("vae", 0),
                start_image=("image", 0),
                **TEXT,
                width=96,
                height=64,
                length=9,
                batch_size=1,
            ),
            **moe_sampler(
                model_high=("model", 0),
                model_low=None,
                seed=SEED,
                steps=STEPS,
                sampler=solver,
                cfg_high=0.0,
                shift=0.0,
            ),
            **save("ti2v", latent=("sampler", 0)),
            **save("ti2v_start", latent=("size", 2)),
        }
    )
    assert result.status == "success", result.error
    found = load_file(comfy_server.output / "ti2v.safetensors")["samples"]
    start = load_file(comfy_server.output / "ti2v_start.safetensors")["samples"]

    dit = load_dit(toy_models / "diffusion_models" / TI2V, dtype=torch.float32)
    mean, std = statistics(wan22)
    image = (start - mean) / std
    mask = torch.ones_like(image)
    mask[:, :, 0] = 0
    texts = embeddings(20)
    sigmas = make_sigmas(solver, STEPS, 5.0)
    run = make_solver(solver, sigmas)
    x = (1 - mask) * image + mask * noise(found.shape)
    for i, sigma in enumerate(sigmas[:-1].tolist()):
        tokens = (mask[:, 0, :, ::2, ::2] * model_timestep(solver, sigma)).flatten(1)
        x0 = x - sigma * guided(dit, x, tokens, texts, 5.0)
        x = (1 - mask) * image + mask * run.step(i, x0, x)

    assert relative(found, x * std + mean) <= ROUNDING
    assert relative(found[:, :, 0], start[:, :, 0]) <= ROUNDING


@pytest.mark.parametrize("solver", ["unipc", "dpm++", "euler"])
def test_full_run_starts_from_plain_noise(comfy_server: ComfyServer, solver: str):
    """UniPC's first sigma is a little below 1; what the latent holds must not shine through."""
    settings = {"sampler": solver, "steps": 4, "shift": 5.0, **TEXT}
    prompt = {
        **experts(T2V),
        **random_text(64, 20),
        **empty_latent(),
        **moe_sampler("content", latent_image=("latent", 0), seed=1, **settings),
        **moe_sampler("from_content", latent_image=("content", 0), seed=SEED, **settings),
        **moe_sampler("from_empty", latent_image=("latent", 0), seed=SEED, **settings),
    }
    names = ("from_content", "from_empty")
    for name in names:
        prompt |= save(name, latent=(name, 0))
    result = comfy_server.run(prompt)

    assert result.status == "success", result.error
    latents = [load_file(comfy_server.output / f"{n}.safetensors")["samples"] for n in names]
    assert relative(*latents) <= ROUNDING
