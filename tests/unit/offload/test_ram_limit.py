"""A system that gives a process no more RAM: a clear error, and nothing stays behind."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.loading.checkpoints import dit_state, save
from tests.unit.loading.test_memory import large_state

STATUS = Path("/proc/self/status")
REPOSITORY = Path(__file__).parents[3]

pytestmark = pytest.mark.skipif(not STATUS.exists(), reason=f"No {STATUS} on this system.")

BEGIN = """
import resource, sys
from dataclasses import replace
import torch
from tests.unit.dit.toy import make_dit, make_inputs
from tests.unit.offload.fakes import LazyDevice, forward, plan_for
from wan_model.errors import MemoryLimitError
from wan_model.loading import load_dit
from wan_model.offload import HostModel, OffloadEngine

def status(name):
    line = next(line for line in open("/proc/self/status") if line.startswith(name + ":"))
    return int(line.split()[1]) * 1024

def held(path):  # freed addresses may stay taken, as glibc likes it, without memory behind them
    mapped = [line.split()[0].split("-") for line in open("/proc/self/maps") if path in line]
    return status("RssAnon") + sum(int(end, 16) - int(start, 16) for start, end in mapped)

def limit(nbytes):
    resource.setrlimit(resource.RLIMIT_AS, (status("VmSize") + nbytes, -1))
"""

LOAD = """
small, path, *shares = sys.argv[1:]
limit(1 << 40)
size = open(path, "rb").seek(0, 2)
load_dit(small, dtype=torch.float32)  # takes what is taken only once
before = held(path)
kept = []
for share in shares:
    limit(int(float(share) * size))
    try:
        load_dit(path, dtype=torch.float32)
    except MemoryLimitError as error:
        print(error)
        print(str(error.__cause__).splitlines()[0])
        kept.append(error)  # as a debugger does, or Python 3.13 for longer than one would think
    print((held(path) - before) / size)
limit(4 * size)
load_dit(path, dtype=torch.float32)
"""

STREAM = """
dit, device = make_dit(), LazyDevice()
host = HostModel(dit, dit.blocks)
plan = plan_for(host, blocks_to_swap=2)
engine = OffloadEngine([host], plan, device)
expected = forward(engine, device, dit, make_inputs(dit))
engine.apply(replace(plan, ring_bytes=2 << 30))
limit(256 << 20)
try:
    forward(engine, device, dit, make_inputs(dit))
except MemoryLimitError as error:
    print(error)
print(engine.pinned_bytes, device.pinned_bytes)
engine.apply(plan)
assert torch.equal(forward(engine, device, dit, make_inputs(dit)), expected)
"""


def run(script: str, *arguments: object) -> list[str]:
    """Runs Python in a process of its own; returns what it prints."""
    result = subprocess.run(
        [sys.executable, "-c", BEGIN + script, *map(str, arguments)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


CAUSES = {0.5: "unable to mmap", 1.5: "CPUAllocator"}
"""Room for less than the file, and for the file and few of the fp32 weights."""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Of streaming, then of loading, in one process: most of its time is its start."""
    folder = tmp_path_factory.mktemp("ram")
    small, large = (folder / f"{name}.safetensors" for name in ("small", "large"))
    save(small, dit_state())
    save(large, {key: tensor.bfloat16() for key, tensor in large_state().items()})
    return run(STREAM + LOAD, small, large, *CAUSES)


def test_a_limit_while_loading(said: list[str]):
    lines = said[2:]
    for cause, message, reason, left in zip(
        CAUSES.values(), lines[::3], lines[1::3], lines[2::3], strict=True
    ):
        assert message.startswith(
            "The computer's memory is full while loading large.safetensors. Got"
        )
        assert "Close other programs" in message
        assert cause in reason
        assert abs(float(left)) < 0.1


def test_a_limit_while_streaming(said: list[str]):
    message, left = said[:2]
    assert message.startswith("The computer's memory is full. Got no room for 512 MiB of weights")
    assert left == "0 0"
