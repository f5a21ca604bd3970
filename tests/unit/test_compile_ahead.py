"""Kernels that a thread compiles before they are needed."""

import copy
import os
import subprocess
import sys
import threading
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from wan_model import compile_ahead
from wan_model.compile_ahead import CompiledAhead

REPOSITORY = Path(__file__).parents[2]
GPU = torch.device("cuda", 0)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has this computer seem to have a GPU in use, and a Triton that compiles in threads."""
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("triton", "triton.compiler", "triton.compiler.code_generator"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(AsyncCompileMode=None))


@pytest.mark.usefixtures("gpu")
def test_a_thread_compiles_while_a_place_for_kernels_is_set():
    steps, may_go = [], threading.Event()

    @contextmanager
    def kept():
        steps.append("in")
        yield
        steps.append("out")

    def compile_all():
        may_go.wait()
        steps.append(threading.current_thread().name)

    ahead = CompiledAhead.begun(compile_all, GPU, kept)
    assert "wan-compile-ahead" not in steps
    may_go.set()
    ahead.wait()
    assert steps == ["in", "wan-compile-ahead", "out"]
    ahead.wait()


@pytest.mark.usefixtures("gpu")
def test_what_fails_there_is_nobodys_concern(caplog: pytest.LogCaptureFixture):
    def fail():
        raise AssertionError("no C compiler")

    CompiledAhead.begun(fail, GPU, nullcontext).wait()
    assert not caplog.records


@pytest.mark.usefixtures("gpu")
def test_whoever_waits_for_a_compiler_that_hangs_goes_on(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compile_ahead, "LONGEST_WAIT", 0.01)
    may_end = threading.Event()
    ahead = CompiledAhead.begun(may_end.wait, GPU, nullcontext)  # pyright: ignore[reportArgumentType]
    ahead.wait()
    may_end.set()


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    "change",
    [
        lambda patch: patch.setattr(sys, "platform", "win32"),
        lambda patch: patch.setattr(torch.version, "hip", "7.0"),
        lambda patch: patch.setattr(torch.cuda, "is_initialized", lambda: False),
        lambda patch: patch.setattr(torch.cuda, "current_device", lambda: 1),
        lambda patch: patch.setitem(sys.modules, "triton", None),
        lambda patch: patch.setitem(sys.modules, "triton", SimpleNamespace()),
        lambda patch: patch.setattr(threading.Thread, "start", _no_thread),
    ],
    ids=["Windows", "AMD", "unused GPU", "another GPU", "no Triton", "Triton 3.4", "no thread"],
)
def test_elsewhere_there_is_no_thread(monkeypatch: pytest.MonkeyPatch, change):
    begun = []
    change(monkeypatch)
    CompiledAhead.begun(lambda: begun.append(1), GPU, nullcontext).wait()
    assert not begun


def _no_thread(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


@pytest.mark.usefixtures("gpu")
def test_a_processor_needs_no_kernels_and_a_copy_waits_for_nothing():
    begun = []
    CompiledAhead.begun(lambda: begun.append(1), torch.device("cpu"), nullcontext).wait()
    assert not begun
    may_end = threading.Event()
    ahead = CompiledAhead.begun(may_end.wait, GPU, nullcontext)  # pyright: ignore[reportArgumentType]
    copy.deepcopy(ahead).wait()
    may_end.set()
    ahead.wait()


def test_nothing_is_compiled_any_more_when_the_main_thread_has_ended(
    monkeypatch: pytest.MonkeyPatch,
):
    pytest.importorskip("triton")
    from wan_model.triton_launch import ProcessEndsError, launch

    monkeypatch.setattr(threading.main_thread(), "is_alive", lambda: False)
    with pytest.raises(ProcessEndsError):
        launch(None, (1,), torch.empty(1, device="meta"))


SCRIPT = """
import os, sys, threading
from functools import partial
from pathlib import Path

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

class Hopper:
    launcher_cls = staticmethod(lambda source, metadata: launchers.append(source.name))
    def get_current_target(self): return GPUTarget("cuda", 90, 32)
    def get_current_device(self): return 0
    def get_current_stream(self, device): return 0

launchers = []
driver.set_active(Hopper())
from wan_model.config import Precision, VaeConfig
from wan_model.dit import fused_kernels
from wan_model.dit.fused_stages import FusedStages
from wan_model.dit.stage_choice import compile_stages
from wan_model.dit.stage_trial import BlockKind, LayerKind, run_trial, trial_block
from wan_model.vae import kernel_choice, triton_kernels
from wan_model.vae.full import compile_kernels

def kernels(): return len(list(Path(os.environ["TRITON_CACHE_DIR"]).rglob("*.cubin")))

bf16, cpu = Precision(compute_dtype=torch.bfloat16), torch.device("cpu")
kind = BlockKind(128, 192, 2, (LayerKind(codes=True, adapters=False),) * 8)
thread = threading.Thread(target=compile_stages, args=([kind], bf16))
vae = VaeConfig(variant="wan2.1", encoder_dim=96, decoder_dim=96, z_dim=16)
other = threading.Thread(target=compile_kernels, args=(vae, torch.bfloat16))
for started in (thread, other): started.start()
for started in (thread, other): started.join()
assert len(launchers) >= kernels(), launchers
before = kernels()

# What tensors with memory would launch is found compiled.
def found(kernel, grid, *args, **constants):
    device_cache = kernel.device_caches[0][0]
    size = len(device_cache)
    kernel.warmup(*args, grid=grid, **constants)
    assert len(device_cache) == size, kernel

fused_kernels.launch = triton_kernels.launch = found
block = trial_block(kind, bf16, cpu)
list(run_trial(FusedStages(block, with_codes=True), block, bf16, cpu))
list(kernel_choice.run_trial(triton_kernels.TritonPointwise(), cpu, torch.bfloat16))
print(before, kernels())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Only done on Linux.")
def test_two_threads_compile_what_a_gpu_would_launch(tmp_path: Path):
    """For a Hopper GPU, which takes none: 8 kernels of stages and 8 of a VAE."""
    pytest.importorskip("triton")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    before, after = map(int, done.stdout.split())
    assert before == after <= 16
