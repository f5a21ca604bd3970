"""Loading needs no more memory than the model it returns, beside the system's file cache."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.unit.loading.checkpoints import dit_shapes, dit_state, save, scaled

STATUS = Path("/proc/self/status")

LOAD = """
import importlib.util, sys
folder, small, large, dtype = sys.argv[1:]
spec = importlib.util.spec_from_file_location(
    "wan_model", folder + "/__init__.py", submodule_search_locations=[folder]
)
module = sys.modules["wan_model"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
import torch

def status(name):
    line = next(line for line in open("/proc/self/status") if line.startswith(name + ":"))
    return int(line.split()[1]) * 1024

dtype = getattr(torch, dtype) if dtype else None
module.load_dit(small, dtype=dtype)  # imports what is imported late
own, resident = status("RssAnon"), status("VmRSS")
model = module.load_dit(large, dtype=dtype)
print(status("RssAnon") - own, status("VmHWM") - resident)
"""


def large_state() -> dict[str, torch.Tensor]:
    """About 180 MB in fp32."""
    sizes = {256: 1024, 6 * 256: 6 * 1024, 512: 2048}
    state = {
        key: torch.ones([sizes.get(size, size) for size in shape])
        for key, shape in dit_shapes("t2v").items()
    }
    return state | {"time_embedding.0.weight": torch.ones(1024, 256)}


@pytest.mark.skipif(not STATUS.exists(), reason=f"No {STATUS} on this system.")
@pytest.mark.parametrize(
    ("stored", "asked", "own_share", "peak_share"),
    [
        ("fp8", "", 0.0, 1.0),
        ("float16", "bfloat16", 0.0, 1.0),
        ("float32", "bfloat16", 0.5, 1.5),
    ],
)
def test_memory_grows_by_the_model_only(
    stored: str, asked: str, own_share: float, peak_share: float, tmp_path: Path
):
    """Memory after loading and at its peak, as shares of the file.

    The peak counts pages of the file's mapping, which the system takes back when it needs them.
    """
    state = large_state()
    if stored == "fp8":
        state = scaled(state)
    else:
        state = {key: tensor.to(getattr(torch, stored)) for key, tensor in state.items()}
    large = save(tmp_path / "large.safetensors", state)
    small = save(tmp_path / "small.safetensors", dit_state())
    library = sys.modules["wan_model"].__path__[0]
    result = subprocess.run(
        [sys.executable, "-c", LOAD, library, small, large, asked],
        capture_output=True,
        text=True,
        check=True,
    )
    own, peak = map(int, result.stdout.split())
    size, slack = large.stat().st_size, 10e6
    assert own < own_share * size + slack
    assert peak < peak_share * size + 3 * slack
