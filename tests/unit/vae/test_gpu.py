"""What only a CUDA device can show."""

import copy

import pytest
import torch

from tests.parity.recipe import value
from tests.unit.vae.test_pointwise import same_as_plain
from wan_model.vae import Tiling, WanVae
from wan_model.vae.kernel_choice import TOLERANCE, fastest_pointwise, trial_error
from wan_model.vae.transfer import Outbox, send

CUDA = torch.device("cuda")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="No CUDA device."),
]


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_triton_gives_right_numbers(dtype: torch.dtype) -> None:
    kernels = pytest.importorskip("wan_model.vae.triton_kernels")
    limit = 1e-5 if dtype == torch.float32 else TOLERANCE / 2
    assert trial_error(kernels.TritonPointwise(), CUDA, dtype) < limit
    assert isinstance(fastest_pointwise(CUDA, dtype), kernels.TritonPointwise)


@pytest.mark.parametrize("channels", [3, 12, 96, 640, 1024])
def test_triton_takes_frames_of_any_width(channels: int) -> None:
    kernels = pytest.importorskip("wan_model.vae.triton_kernels")
    same_as_plain(kernels.TritonPointwise(), channels, CUDA)


def test_a_gpu_works_while_its_last_chunk_is_handed_out() -> None:
    outbox, taken = Outbox(torch.device("cpu")), []
    for number in range(3):
        outbox.put(send(torch.full((2, 2), number), CUDA, torch.float32), taken.append)
        assert len(taken) == number
    outbox.empty()
    assert [chunk.unique().tolist() for chunk in taken] == [[0.0], [1.0], [2.0]]
    assert all(chunk.is_cpu for chunk in taken)
    outbox.empty()
    assert len(taken) == 3
