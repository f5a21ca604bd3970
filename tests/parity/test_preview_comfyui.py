"""The preview VAEs against ComfyUI's TAEHV, with the same weights of the released widths."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.parity.recipe import fill, value
from wan_model.vae.preview import PreviewVae, PreviewVaeConfig, build_preview_vae

pytest.importorskip("tqdm")

TOLERANCE = {"atol": 1e-5, "rtol": 0}
PARAMETERS = {"wan2.1": 11_315_539, "wan2.2": 11_418_108}
FRAMES = (1, 2, 5)
"""Of the latent."""


@pytest.fixture(scope="module")
def taehv(comfyui: Path) -> ModuleType:
    """ComfyUI's module, from its file alone; the rest would need a process of its own."""
    substitutes: dict[str, Any] = {
        "comfy": ModuleType("comfy"),
        "comfy.ops": ModuleType("comfy.ops"),
        "comfy.model_management": ModuleType("comfy.model_management"),
    }
    substitutes["comfy"].ops = substitutes["comfy.ops"]
    substitutes["comfy"].model_management = substitutes["comfy.model_management"]
    substitutes["comfy.ops"].disable_weight_init = nn
    substitutes["comfy.model_management"].intermediate_device = lambda: torch.device("cpu")
    spec = importlib.util.spec_from_file_location("taehv", comfyui / "comfy/taesd/taehv.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        for name, substitute in substitutes.items():
            patch.setitem(sys.modules, name, substitute)
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", params=["wan2.1", "wan2.2"])
def pair(request: pytest.FixtureRequest, taehv: ModuleType) -> tuple[PreviewVae, nn.Module]:
    """Ours, which is given the network's own latents, and ComfyUI's."""
    vae = build_preview_vae(
        PreviewVaeConfig(
            variant=request.param,
            encoder_dim=64,
            decoder_dim=64,
            z_dim=16 if request.param == "wan2.1" else 48,
            stage_dims=(256, 128, 64),
            family="LightTAE",
        )
    )
    peer = taehv.TAEHV(vae.config.z_dim, show_progress_bar=False)
    peer.show_progress_bar = False  # an older version ignores the argument
    peer.load_state_dict(fill(vae).state_dict())
    return vae, peer.eval().requires_grad_(False)


def test_size(pair: tuple[PreviewVae, nn.Module]) -> None:
    vae, _ = pair
    parameters = sum(parameter.numel() for parameter in vae.parameters())
    assert parameters == PARAMETERS[vae.config.variant]


@pytest.mark.parametrize("frames", FRAMES)
def test_decode(pair: tuple[PreviewVae, nn.Module], frames: int) -> None:
    vae, peer = pair
    latent = value("latent", (2, vae.config.z_dim, frames, 3, 4))
    expected = peer.decode(latent.clone())
    assert expected.std() > 0.05
    ours = vae.decode(latent, normalized=False) / 2 + 0.5
    torch.testing.assert_close(ours, expected, **TOLERANCE)


def encode(taehv: ModuleType, peer: nn.Module, video: Tensor) -> Tensor:
    """ComfyUI's latents, padded and patched here: its older versions patch videos wrongly."""
    video = torch.cat([video, *[video[:, :, -1:]] * (-video.shape[2] % 4)], dim=2).movedim(2, 1)
    patches = F.pixel_unshuffle(video.flatten(0, 1), peer.patch_size).unflatten(0, (2, -1))
    latent = taehv.apply_model_with_memblocks(peer.encoder, patches, False, False)
    return latent.movedim(2, 1)


@pytest.mark.parametrize("frames", FRAMES)
def test_encode(pair: tuple[PreviewVae, nn.Module], taehv: ModuleType, frames: int) -> None:
    vae, peer = pair
    stride = vae.config.spatial_stride
    video = value("video", (2, 3, 4 * frames - 3, 3 * stride, 4 * stride), 0.5).clamp(-1, 1)
    expected = encode(taehv, peer, video / 2 + 0.5)
    assert expected.std() > 0.05
    torch.testing.assert_close(vae.encode(video, normalized=False), expected, **TOLERANCE)
