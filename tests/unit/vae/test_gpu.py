"""What only a CUDA device can show."""

import copy

import pytest
import torch

from tests.parity.recipe import value
from wan_model.vae import Tiling, WanVae
from wan_model.vae.layers import Conv3d

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="No CUDA device."),
]


def test_cudnn_called_directly_gives_the_same_convolution() -> None:
    conv = Conv3d(8, 16, (3, 3, 3)).to("cuda", torch.bfloat16).requires_grad_(False)
    for frames in (1, 5):
        x = value("x", (1, 8, frames, 12, 20)).to("cuda", torch.bfloat16)
        conv.calls_cudnn = False
        expected = conv(x)
        conv.calls_cudnn = True
        torch.testing.assert_close(conv(x), expected, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("tiling", [None, Tiling(64, 32)])
def test_weights_on_the_gpu_serve_tensors_on_the_host(vae: WanVae, tiling: Tiling | None) -> None:
    on_gpu = copy.deepcopy(vae).to("cuda", torch.float16)
    latent = value("latent", (1, vae.config.z_dim, 3, 6, 8))
    expected = vae.decode(latent, tiling=tiling)
    video = on_gpu.decode(latent, out=torch.empty_like(expected), tiling=tiling)
    assert video.device.type == "cpu"
    assert (video - expected).norm() < 5e-3 * expected.norm()
    encoded = on_gpu.encode(expected, tiling=tiling)
    assert encoded.device.type == "cpu"
    expected = vae.encode(expected, tiling=tiling)
    assert (encoded - expected).norm() < 5e-3 * expected.norm()
