"""Every backend against exact attention: layouts, options, and arguments left as they are."""

import pytest
import torch

from tests.unit.attention import fakes
from wan_model.attention import flash_attn_2, flash_attn_3, kitchen, sage, sol
from wan_model.attention.backend import UnavailableError

BY_NAME = {backend.name: backend for backend in sage.BACKENDS}


def qkv(source: int = 7):
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 7, 3, 64, generator=generator)
    k, v = torch.randn(2, 2, source, 3, 64, generator=generator)
    return q, k + 3, v


CASES = [
    (flash_attn_2.BACKEND, {"flash_attn": fakes.flash()}, (8, 0)),
    (flash_attn_3.BACKEND, {"fa3_fwd_interface": fakes.flash()}, (9, 0)),
    (flash_attn_3.BACKEND, {"flash_attn_interface": fakes.flash()}, (9, 0)),
    (flash_attn_3.BACKEND, {"flash_attn_interface": fakes.flash(lambda o: (o, None))}, (9, 0)),
    (BY_NAME["sage"], fakes.sage_1(), (8, 6)),
    (BY_NAME["sage"], fakes.sage_2(), (8, 0)),
    (BY_NAME["sage"], fakes.sage_2(), (8, 9)),
    (BY_NAME["sage"], fakes.sage_2(), (9, 0)),
    (BY_NAME["sage"], fakes.sage_2(), (12, 0)),
    (BY_NAME["sage_fp16_triton"], fakes.sage_2(), (8, 6)),
    (BY_NAME["sage_fp16_cuda"], fakes.sage_2(), (8, 6)),
    (BY_NAME["sage_fp8_cuda"], fakes.sage_2(), (8, 9)),
    (BY_NAME["sage_fp8_sm90"], fakes.sage_2(), (9, 0)),
    (kitchen.BACKEND, {"comfy_kitchen": fakes.kitchen()}, (8, 6)),
]


@pytest.mark.parametrize(("backend", "modules", "capability"), CASES)
@pytest.mark.parametrize("source", [7, 4])
def test_exact_kernels_give_exact_attention(backend, modules, capability, source):
    q, k, v = qkv(source)
    before = [x.clone() for x in (q, k, v)]
    out = backend.function(fakes.platform(modules, capability))(q, k, v)
    assert out.shape == q.shape
    torch.testing.assert_close(out.double(), fakes.exact(*before), rtol=1e-5, atol=1e-5)
    for given, original in zip((q, k, v), before, strict=True):
        assert torch.equal(given, original), "An argument was changed."


def test_sparse_attention_has_our_layout():
    modules = {"comfy_kitchen": fakes.kitchen()}
    out = sol.BACKEND.function(fakes.platform(modules))(*qkv())
    torch.testing.assert_close(out.double(), fakes.exact(*qkv()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("capability", "entry", "options"),
    [
        ((8, 0), sage.FP16_CUDA, {"pv_accum_dtype": "fp32"}),
        ((8, 6), sage.FP16_CUDA, {"pv_accum_dtype": "fp32"}),
        ((8, 7), sage.FP16_CUDA, {"pv_accum_dtype": "fp32"}),
        ((8, 9), sage.FP8_CUDA, {}),
        ((9, 0), sage.FP8_SM90, {}),
        ((12, 0), sage.FP8_CUDA, {"qk_quant_gran": "per_warp"}),
        ((12, 1), sage.FP8_CUDA, {"qk_quant_gran": "per_warp"}),
    ],
)
def test_sage_2_takes_the_kernel_of_the_gpu(capability, entry, options):
    modules = fakes.sage_2()
    BY_NAME["sage"].function(fakes.platform(modules, capability))(*qkv())
    package = modules["sageattention"]
    entries = (sage.FP16_TRITON, sage.FP16_CUDA, sage.FP8_CUDA, sage.FP8_SM90)
    called = {e.name: getattr(package, e.function).options for e in entries}
    assert {name for name, seen in called.items() if seen} == {entry.name}
    assert called[entry.name] == {"smooth_k": True, **options}


def test_sage_2_falls_back_to_the_next_kernel_of_the_gpu():
    modules = fakes.sage_2("sage_fp8_sm90")  # version 2.0 has none for Hopper
    BY_NAME["sage"].function(fakes.platform(modules, (9, 0)))(*qkv())
    assert getattr(modules["sageattention"], sage.FP16_CUDA.function).options


@pytest.mark.parametrize(
    ("name", "modules", "capability", "reason"),
    [
        ("sage", {}, (8, 9), "is not installed"),
        ("sage", {"sageattention": object()}, (8, 9), "is installed in a version without sageat"),
        ("sage", fakes.sage_2(), (10, 0), "has no kernel for compute capability 10.0"),
        (
            "sage",
            fakes.sage_2(SM89_ENABLED=False),
            (12, 0),
            "sage_fp8_cuda is not compiled into the installed sageattention",
        ),
        ("sage_fp8_cuda", fakes.sage_1(), (8, 9), "needs SageAttention 2, and version 1 is inst"),
        ("sage_fp8_cuda", fakes.sage_2(SM89_ENABLED=False), (8, 9), "is not compiled into the"),
        (
            "sage_fp8_sm90",
            fakes.sage_2(),
            (8, 9),
            "needs compute capability 9.0 and below 9.1,",
        ),
        ("sage_fp16_cuda", fakes.sage_2(), (7, 5), "needs compute capability 8.0 and below 13.0"),
    ],
)
def test_why_sage_cannot_run(name, modules, capability, reason):
    found = BY_NAME[name].unavailable_reason(fakes.platform(modules, capability))
    assert found is not None
    assert found.startswith(reason)


@pytest.mark.parametrize("backend", [kitchen.BACKEND, sol.BACKEND])
def test_why_comfy_kitchen_cannot_run(backend):
    def reason(module):
        return backend.unavailable_reason(fakes.platform({"comfy_kitchen": module}))

    assert reason(fakes.kitchen()) is None
    assert "not compiled for this GPU" in reason(fakes.kitchen(available=False))
    assert "too old" in reason(object())
    assert backend.unavailable_reason(fakes.platform()) == "is not installed"


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (ImportError("undefined symbol: _ZN3c10"), "is installed but does not load (undefined sym"),
        (OSError("libcudart.so.13"), "is installed but does not load (libcudart.so.13)"),
        (ModuleNotFoundError("No module", name="einops"), "needs einops, which is missing"),
        (object(), "is installed in a version without flash_attn_func"),
    ],
)
def test_a_broken_package_is_a_reason(module, reason):
    with pytest.raises(UnavailableError) as error:
        flash_attn_2.BACKEND.function(fakes.platform({"flash_attn": module}))
    assert str(error.value).startswith(reason)


def test_nothing_is_imported_where_it_could_not_run():
    modules = {"fa3_fwd_interface": AssertionError("imported")}
    reason = flash_attn_3.BACKEND.unavailable_reason(fakes.platform(modules, (12, 0)))
    assert reason == f"needs compute capability 9.0 and below 9.1, and {fakes.GPU} has 12.0"
