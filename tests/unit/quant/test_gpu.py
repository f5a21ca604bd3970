"""What only a CUDA device can show: the kernels themselves, beside their CPU references."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from tests.parity.recipe import value
from tests.unit.loading.checkpoints import LAYER, dit_state, save, scaled
from tests.unit.offload.fakes import plan_for
from tests.unit.quant.gguf_blocks import random_blocks
from tests.unit.quant.layers import (
    natural_errors,
    outlier_tokens,
    outlier_weight,
    plain,
    policy_of,
)
from wan_model import load_dit
from wan_model.errors import BackendError
from wan_model.loading import open_checkpoint, unchanged_regions
from wan_model.offload import HostModel, OffloadEngine, open_device
from wan_model.quant import (
    DEQUANTIZED,
    GGUF_FORMATS,
    Linear,
    StoredWeight,
    quantize_rows,
    scale_weight,
)
from wan_model.quant.formats import FP8_SCALED
from wan_model.quant.gguf_formats import GgufFormat
from wan_model.quant.gguf_matmul import FusedExpander, trial_error
from wan_model.quant.kernels import KERNELS, MatmulKernel, kernels_for

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="No CUDA device."),
]

CUDA, OUT, IN = torch.device("cuda"), 512, 1024
LIMITS = {"nvfp4": (0.14, 0.2)}
"""Other than (0.042, 0.08): rms error of all, and of the worst feature."""
FLOATS = [torch.bfloat16, torch.float16, torch.float32]
NAMED = [(kernel.format.name.removesuffix(" scaled"), kernel) for kernel in KERNELS]


def on_gpu(
    name: str,
    kernel: MatmulKernel | None,
    compute_dtype: torch.dtype,
    sizes: tuple[int, int] = (OUT, IN),
) -> Linear:
    reason = kernel.unavailable_reason(CUDA) if kernel else None
    if reason:
        pytest.skip(reason)
    layer = Linear(*reversed(sizes), compute_dtype=compute_dtype)
    policy_of(name, kernel, CUDA).place(layer, plain(outlier_weight(*sizes)), CUDA)
    layer.bias = None
    return layer


@pytest.mark.parametrize("compute_dtype", FLOATS, ids=str)
@pytest.mark.parametrize(("name", "kernel"), NAMED)
@torch.inference_mode()
def test_kernels_give_what_their_codes_say(
    name: str, kernel: MatmulKernel, compute_dtype: torch.dtype
) -> None:
    layer = on_gpu(name, kernel, compute_dtype)
    x = outlier_tokens(2, 200, IN).to(CUDA)
    errors = natural_errors(layer(x), x, layer, outlier_weight(OUT, IN).to(CUDA)).square()
    limit, worst_limit = LIMITS.get(name, (0.042, 0.08))
    assert errors.mean().sqrt() < limit
    assert errors.mean(0).sqrt().max() < worst_limit
    bias = torch.ones(OUT, device=CUDA, dtype=compute_dtype)
    layer.bias = torch.nn.Parameter(bias, requires_grad=False)
    dense = layer.stored().dequantize(torch.float32)
    expected = F.linear(x, dense, bias.float())
    assert (layer(x) - expected).norm() < limit * expected.norm()


@pytest.mark.parametrize("rows", [1, 16, 17, 100, 512, 1872, 8192])
@pytest.mark.parametrize(("name", "kernel"), NAMED)
def test_any_number_of_tokens(name: str, kernel: MatmulKernel, rows: int) -> None:
    layer = on_gpu(name, kernel, torch.bfloat16)
    x = outlier_tokens(rows, IN).to(CUDA, torch.bfloat16)
    torch.testing.assert_close(layer(x)[-1:], layer(x[-1:]), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("sizes", [(13824, 5120), (5120, 13824), (3072, 14336)], ids=str)
@pytest.mark.parametrize(("name", "kernel"), NAMED)
@torch.inference_mode()
def test_few_tokens_in_the_widths_of_the_models(
    name: str, kernel: MatmulKernel, sizes: tuple[int, int]
) -> None:
    """cuBLAS has no row-wise scaled kernel for 12 rows of 13,824, but has one for 5,120."""
    layer = on_gpu(name, kernel, torch.bfloat16, sizes)
    dense = layer.stored().dequantize(torch.float32)
    for rows in (1, 12, 31, 33, 64, 210):
        x = outlier_tokens(rows, sizes[1]).to(CUDA, torch.bfloat16)
        expected = F.linear(x.float(), dense)
        assert (layer(x) - expected).norm() < LIMITS.get(name, (0.042,))[0] * expected.norm(), rows


@pytest.mark.parametrize(("name", "kernel"), NAMED)
def test_a_broken_token_is_seen(name: str, kernel: MatmulKernel) -> None:
    layer = on_gpu(name, kernel, torch.bfloat16)
    x = outlier_tokens(40, IN).to(CUDA)
    x[7, 3] = float("nan")
    finite = layer(x).isfinite().all(1)
    assert not finite[7]
    # In nvfp4 all tokens share a scale.
    assert finite.sum() == (0 if name == "nvfp4" else 39)


@pytest.mark.parametrize("compute_dtype", FLOATS, ids=str)
@torch.inference_mode()
def test_stored_fp8_is_the_same_on_cpu_and_gpu(compute_dtype: torch.dtype) -> None:
    # Also: torch.addcmul with a 16-bit result and fp32 scales, in place.
    layer = on_gpu("fp8 storage", None, compute_dtype)
    layer.bias = torch.nn.Parameter(torch.ones(OUT, device=CUDA), requires_grad=False)
    x = outlier_tokens(40, IN)
    got = layer(x.to(CUDA)).cpu()
    expected = layer.to("cpu")(x)
    tolerance = 4 * torch.finfo(compute_dtype).eps * expected.float().norm()
    assert (got.float() - expected.float()).norm() < tolerance


SOURCES = {
    "fp8": scaled(dit_state(dtype=torch.float16)),
    "fp8 per row": scaled(dit_state(dtype=torch.float16), shape="row"),
    "fp16": dit_state(dtype=torch.float16),
}


@pytest.mark.parametrize("weights", ["auto", "fp8", "int8"])
@pytest.mark.parametrize("source", SOURCES)
@torch.inference_mode()
def test_a_checkpoint_resident_and_streamed(source: str, weights: str, tmp_path: Path) -> None:
    file = save(tmp_path / "a.safetensors", SOURCES[source])
    dtype = torch.bfloat16
    try:
        model = load_dit(file, device=CUDA, dtype=dtype, weights=weights)
    except BackendError as error:
        pytest.skip(str(error))
    stored = load_dit(file, device=CUDA, dtype=dtype)
    on_host = load_dit(file, dtype=dtype, weights=weights, compute_device=CUDA)
    latent = value("x", (1, 16, 3, 16, 16)).to(CUDA)
    inputs = (latent, torch.tensor([500.0], device=CUDA), value("ctx", (1, 30, 64)).to(CUDA))
    expected, got = stored(*inputs), model(*inputs)
    assert (got - expected).norm() <= 5e-2 * expected.norm()
    layer = model.get_submodule(LAYER)
    eight_bit = weights != "auto" or layer.weight.dtype == torch.float8_e4m3fn
    assert (layer.matmul is not DEQUANTIZED) == eight_bit
    assert torch.equal(got, expected) == (not eight_bit)

    host = HostModel(on_host, on_host.blocks, unchanged_regions(on_host, open_checkpoint(file)))
    plan = plan_for(host, blocks_to_swap=len(host.blocks) - 1)
    engine = OffloadEngine([host], plan, open_device(CUDA))
    streamed = engine.run(0, lambda run: on_host.velocity(*inputs, None, run))
    assert torch.equal(streamed, got)
    engine.unload()
    engine.release_pinned()


@pytest.mark.parametrize(
    "kernel", [None, *kernels_for(FP8_SCALED)], ids=lambda k: k.label if k else "dequantized"
)
def test_one_scale_for_all_is_not_rounded(kernel: MatmulKernel | None) -> None:
    # A scale without axes would be rounded to bf16 first, to 1.5: 2.3e-3 off.
    layer = on_gpu("fp8", kernel, torch.bfloat16)
    x = outlier_tokens(200, IN).to(CUDA)
    layer.weight_scale = torch.tensor(1.0, device=CUDA)
    plain = layer(x).double()
    scale = layer.weight_scale = torch.tensor(1.5035, device=CUDA)
    ratio = (layer(x).double() * plain).sum() / plain.square().sum()
    assert abs(ratio - scale.double()) < 5e-4
    exact = scale_weight(layer.weight, scale).bfloat16()
    assert torch.equal(layer.stored().dequantize(torch.bfloat16), exact)


@pytest.mark.parametrize("kind", GGUF_FORMATS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("codes", [torch.int8, torch.float8_e4m3fn], ids=str)
def test_gguf_is_expanded_by_triton(kind: GgufFormat, codes: torch.dtype) -> None:
    if codes != torch.int8 and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("This GPU has no fp8.")
    from wan_model.quant import gguf_kernels

    fused = FusedExpander(gguf_kernels.expand)
    assert trial_error(fused, CUDA, [kind], codes) < 1
    packed = random_blocks(kind, 40, 1280)
    exact = StoredWeight(kind, packed).dequantize(torch.float32)
    got, scale = torch.empty(40, 1280, device=CUDA, dtype=codes), torch.empty(40, 1, device=CUDA)
    fused(kind, packed.to(CUDA), got, scale)
    expected, its_scale = quantize_rows(exact, codes)
    torch.testing.assert_close(scale.cpu(), its_scale)
    assert (got.cpu().float() != expected.float()).float().mean() < 0.01
    dense = torch.empty(40, 1280, device=CUDA, dtype=torch.bfloat16)
    fused(kind, packed.to(CUDA), dense, None)
    off = dense.cpu().float() - exact.bfloat16().float()
    assert (off != 0).float().mean() < 1e-3  # products and sums may be rounded together
