"""Choosing an attention backend: a name means that backend or an error that explains itself."""

import pytest
import torch

from tests.unit.attention import fakes
from wan_model.attention import Backend, Constraints, automatic, names, resolve
from wan_model.attention.auto import Choice, Measurement
from wan_model.attention.registry import BACKENDS, Selected, memory_key
from wan_model.attention.sdpa import sdpa
from wan_model.errors import BackendError

H100 = fakes.platform({"fa3_fwd_interface": fakes.flash()}, versions={"fa3-fwd": "0.0.3"})
CPU = fakes.platform(kind="other")


class Trial:
    """Measures with given times, and counts how often."""

    def __init__(self, **milliseconds: float) -> None:
        self.milliseconds = milliseconds
        self.calls: list[list[str]] = []
        self.dtypes: list[torch.dtype] = []

    def __call__(self, functions, dtype) -> list[Measurement]:
        self.calls.append(list(functions))
        self.dtypes.append(dtype)
        return [Measurement(n, self.milliseconds.get(n, 99.0), 2.3e-3) for n in functions]


def test_the_names_are_fixed():
    # Saved workflows hold them.
    assert names() == [
        "auto", "sdpa", "sdpa_cudnn", "sdpa_flash", "sdpa_efficient", "sdpa_math", "flash_attn_2",
        "flash_attn_3", "flash_attn_3_fp8", "sage", "sage_fp16_triton", "sage_fp16_cuda",
        "sage_fp8_cuda", "sage_fp8_sm90", "kitchen_int8",
    ]  # fmt: skip


def test_sdpa_is_always_there():
    for platform in (CPU, H100, None):
        assert resolve("sdpa", platform=platform) is sdpa
        assert resolve("auto", platform=platform) is sdpa


def test_a_name_asked_for_is_never_replaced():
    with pytest.raises(BackendError) as error:
        resolve("flash_attn_3", platform=CPU)
    assert str(error.value) == (
        "This attention backend cannot run here. Got 'flash_attn_3', which needs an NVIDIA GPU, "
        "need one of: auto, sdpa, sdpa_math. Choose 'auto'."
    )


def test_the_error_says_how_to_install():
    with pytest.raises(BackendError) as error:
        resolve("kitchen_int8", platform=H100)
    assert "Got 'kitchen_int8', which is not installed, need one of: auto, sdpa, " in str(
        error.value
    )
    assert "flash_attn_3" in str(error.value)
    assert str(error.value).endswith("Install it (pip install -U comfy-kitchen), or choose 'auto'.")


@pytest.mark.parametrize("name", ["flash_attn_9", "SDPA", ""])
def test_an_unknown_name_lists_what_there_is(name):
    with pytest.raises(BackendError) as error:
        resolve(name)
    assert f"Got {name!r}, need one of: auto, sdpa, sdpa_cudnn," in str(error.value)


def test_a_backend_says_why_it_cannot_run():
    backends = {backend.name: backend for backend in BACKENDS}
    flash, sage = backends["flash_attn_3"], backends["sage"]
    assert flash.unavailable_reason(H100) is None
    assert sage.unavailable_reason(H100) == "is not installed"
    assert sage.unavailable_reason(CPU) == "needs an NVIDIA GPU"
    assert flash.unavailable_reason(fakes.platform(capability=(8, 9))) == (
        f"needs compute capability 9.0 and below 9.1, and {fakes.GPU} has 8.9"
    )


def test_auto_measures_once(tmp_path):
    memory, trial = tmp_path / "attention.json", Trial(sdpa=10.0, flash_attn_3=8.0)
    before = automatic(platform=H100, memory=memory)
    assert str(before) == "chooses sdpa: until the backends are compared, when 'auto' is first used"
    for _ in range(2):
        chosen = resolve("auto", memory=memory, platform=H100, measure=trial)
        assert isinstance(chosen, Selected)
        assert chosen.backend.name == "flash_attn_3"
    assert len(trial.calls) == 1
    assert str(automatic(platform=H100, memory=memory)) == (
        "chooses flash_attn_3: the fastest here, 8.0 ms with an error of 2.3e-03, where sdpa takes "
        "10.0 ms"
    )


def test_auto_measures_again_after_a_change(tmp_path):
    memory, trial = tmp_path / "attention.json", Trial(sdpa=10.0)
    modules = {"fa3_fwd_interface": fakes.flash()}
    platforms = (
        H100,
        fakes.platform(modules, versions={"fa3-fwd": "0.0.4"}),
        fakes.platform({}, (9, 0)),
        fakes.platform({}, (8, 0)),
    )
    for platform in platforms:
        assert resolve("auto", memory=memory, platform=platform, measure=trial) is sdpa
    # The last two differ in nothing that has a name: same GPU, same backends.
    assert len(trial.calls) == 3


def test_the_key_names_gpu_and_versions():
    key = memory_key(["sdpa", "flash_attn_3"], H100)
    assert key == f"{fakes.GPU}, torch {torch.__version__}, sdpa, flash_attn_3 0.0.3"


def test_auto_tries_no_8_bit_backend_unless_the_bound_allows_it(tmp_path):
    modules = {**fakes.sage_2(), "comfy_kitchen": fakes.kitchen()}
    platform, trial = fakes.platform(modules, (8, 9)), Trial()
    resolve("auto", memory=tmp_path / "a", platform=platform, measure=trial)
    resolve("auto", memory=tmp_path / "a", platform=platform, measure=trial, max_error=2e-2)
    exact_ones, more = trial.calls
    assert {"sdpa", "sdpa_efficient"} <= set(exact_ones)
    assert not [name for name in exact_ones if "sage" in name or "kitchen" in name]
    assert set(more) - set(exact_ones) == {
        "sage", "sage_fp16_triton", "sage_fp16_cuda", "kitchen_int8"
    }  # fmt: skip
    assert "sdpa_math" not in more, "It would run out of memory."


def test_nothing_is_measured_without_gpu_or_file(tmp_path):
    trial = Trial()
    assert resolve("auto", memory=tmp_path / "a", platform=CPU, measure=trial) is sdpa
    assert automatic(platform=CPU) == Choice("sdpa", "there is no GPU to compare backends on")
    assert resolve("auto", platform=H100, measure=trial) is sdpa
    assert not trial.calls
    assert not list(tmp_path.iterdir())


def test_auto_measures_in_the_dtype_that_is_computed_in(tmp_path):
    memory, trial = tmp_path / "attention.json", Trial(sdpa=10.0, flash_attn_3=8.0)
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        options = {"dtype": dtype, "memory": memory, "platform": H100}
        chosen = resolve("auto", measure=trial, **options)
        # It has no fp16 kernels. What fp32 takes is decided call by call.
        assert (chosen is sdpa) == (dtype == torch.float16)
        assert (automatic(**options).name == "flash_attn_3") == (chosen is not sdpa)
    assert trial.dtypes == [torch.float16, torch.bfloat16]
    assert "flash_attn_3" not in trial.calls[0]


def test_a_dtype_without_kernels_is_refused_before_anything_is_loaded():
    assert isinstance(resolve("flash_attn_3", dtype=torch.bfloat16, platform=H100), Selected)
    for dtype in (torch.float16, torch.float32):
        with pytest.raises(BackendError, match=f"'flash_attn_3' cannot compute this. Got {dtype}"):
            resolve("flash_attn_3", dtype=dtype, platform=H100)
        assert resolve("sdpa", dtype=dtype, platform=H100) is sdpa


def test_too_little_memory_is_not_remembered(tmp_path):
    def full(*_):
        raise torch.OutOfMemoryError

    memory, trial = tmp_path / "attention.json", Trial(flash_attn_3=8.0)
    assert resolve("auto", memory=memory, platform=H100, measure=full) is sdpa
    assert not memory.exists()
    assert resolve("auto", memory=memory, platform=H100, measure=trial) is not sdpa


def selected(by_name: bool, **constraints) -> Selected:
    """Returns a backend that gives zeros on the CPU."""
    constraints = Constraints(platforms=frozenset({"other"}), **constraints)
    backend = Backend("zeros", "Zeros", lambda _: torch.zeros_like, constraints)
    return Selected(backend, lambda q, *_: torch.zeros_like(q), by_name)


def test_low_precision_leaves_cross_attention_to_sdpa():
    q = torch.randn(1, 1100, 1, 8).bfloat16()
    attend = selected(by_name=True, low_precision=True)
    assert not attend(q, q, q).any()
    assert torch.equal(attend(q, q[:, :512], q[:, :512]), sdpa(q, q[:, :512], q[:, :512]))
    assert not selected(by_name=True)(q, q[:, :512], q[:, :512]).any()


def test_a_call_it_cannot_take_is_an_error_by_name_and_sdpa_under_auto():
    q = torch.randn(1, 4, 1, 8)
    with pytest.raises(BackendError) as error:
        selected(by_name=True)(q, q, q)
    assert str(error.value).startswith(
        "Attention backend 'zeros' cannot compute this. Got torch.float32, need torch.bfloat16 or "
    )
    assert torch.equal(selected(by_name=False)(q, q, q), sdpa(q, q, q))


@pytest.mark.parametrize("name", ["auto", "sdpa", "sdpa_math"])
def test_backends_on_the_cpu_keep_to_the_contract(name):
    q, k, v = torch.randn(3, 2, 5, 4, 16, generator=torch.Generator().manual_seed(0))
    out = resolve(name, platform=CPU)(q, k[:, :3], v[:, :3])
    assert out.dtype == v.dtype
    expected = fakes.exact(q, k[:, :3], v[:, :3])
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-6)


def test_every_8_bit_backend_is_marked():
    # The two marks must agree: one keeps it from cross-attention, the other from "auto".
    for backend in BACKENDS:
        assert backend.constraints.low_precision == (backend.nominal_error > 5e-3), backend.name
