"""Loading needs no more memory than the model it returns, beside the system's file cache."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.toy.make_checkpoints import dit_shapes
from tests.unit.loading.checkpoints import dit_state, save, scaled

STATUS = Path("/proc/self/status")

LOAD = """
import importlib.util, os, sys
folder, small, *cases = sys.argv[1:]
spec = importlib.util.spec_from_file_location(
    "wan_model", folder + "/__init__.py", submodule_search_locations=[folder]
)
module = sys.modules["wan_model"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
import torch

def status(name):
    line = next(line for line in open("/proc/self/status") if line.startswith(name + ":"))
    return int(line.split()[1]) * 1024

def measure(large, dtype):
    own, resident = status("RssAnon"), status("VmRSS")
    model = module.load_dit(large, dtype=getattr(torch, dtype) if dtype else None)
    print(status("RssAnon") - own, status("VmHWM") - resident, flush=True)

for dtype in (None, torch.bfloat16):
    module.load_dit(small, dtype=dtype)  # imports what is imported late
for large, dtype in zip(cases[::2], cases[1::2]):
    child = os.fork()  # whose peak begins at what it has
    if not child:
        measure(large, dtype)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""

CASES = {
    ("fp8", ""): (0.0, 1.0),
    ("float16", "bfloat16"): (0.0, 1.0),
    ("float32", "bfloat16"): (0.5, 1.5),
}
"""By what is stored, and the dtype that is asked for: memory after loading and at its peak, as
shares of the file. The peak counts pages of the file's mapping, which the system takes back when it
needs them."""


def large_state() -> dict[str, torch.Tensor]:
    """About 130 MB in fp32."""
    sizes = {256: 1024, 6 * 256: 6 * 1024, 512: 2048}
    state = {
        key: torch.ones([sizes.get(size, size) for size in shape])
        for key, shape in dit_shapes("t2v").items()
    }
    return state | {"time_embedding.0.weight": torch.ones(1024, 256)}


@pytest.mark.skipif(not STATUS.exists(), reason=f"No {STATUS} on this system.")
def test_memory_grows_by_the_model_only(tmp_path: Path):
    state, cases = large_state(), list[Path | str]()
    for stored, asked in CASES:
        if stored == "fp8":
            file = scaled(state)
        else:
            file = {key: tensor.to(getattr(torch, stored)) for key, tensor in state.items()}
        cases += [save(tmp_path / f"{stored}.safetensors", file), asked]
    small = save(tmp_path / "small.safetensors", dit_state())
    library = sys.modules["wan_model"].__path__[0]
    result = subprocess.run(
        [sys.executable, "-c", LOAD, library, small, *cases],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # a fork with threads can stand still
    )
    lines = result.stdout.splitlines()
    for (case, shares), file, line in zip(CASES.items(), cases[::2], lines, strict=True):
        size, slack = Path(file).stat().st_size, 10e6
        own, peak = map(int, line.split())
        assert own < shares[0] * size + slack, case
        assert peak < shares[1] * size + 3 * slack, case
