"""Sixty prompts of eight workflows with all that happens on a day; the engine keeps nothing.

`benchmarks/soak.py` runs thousands, and beside core's nodes.
"""

import sys

import pytest

from .long_run import REST, WORKFLOWS, LongRun, known_results
from .server import ComfyServer, on_gpu
from .test_memory_manager import watched

pytestmark = pytest.mark.comfy

PROMPTS = 60
PACES_BYTES = 1024
"""What the file of the last eight runs of each model gets longer or shorter by."""
KIB_A_PROMPT = 4096 if on_gpu() else 1024
"""Twenty prompts show no more: the allocators of Python and the system take and give back dozens
of MiB all the time."""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
def test_sixty_prompts_in_a_row(comfy_server: ComfyServer):
    comfy_server.free()
    expected = known_results(comfy_server, WORKFLOWS)
    run = LongRun(comfy_server, WORKFLOWS, expected, seed=1)
    run.run(PROMPTS)
    run.compare_all()

    assert run.differences == []
    assert set(run.counts) == {name for name, _ in run._events()}
    rests = [sample for sample in run.samples if sample.event == REST]
    settled = rests[3:]  # every text and every file has been there by then
    # A client that has just gone may still have its socket.
    assert min(sample.files for sample in settled) <= rests[0].files
    assert len({sample.threads for sample in settled}) == 1
    disk = [sample.disk_bytes for sample in settled]
    assert max(disk) - min(disk) < PACES_BYTES
    growth = settled[-1].rss_kib - settled[0].rss_kib
    assert growth < KIB_A_PROMPT * (settled[-1].prompts - settled[0].prompts)
    comfy_server.free()
    watched(comfy_server, "going")
    left = watched(comfy_server, "row_held")
    assert (left["threads"], left["files"]) == ([], [])
