"""Sixty prompts of eight workflows with all that happens on a day; the engine keeps nothing.

`benchmarks/soak.py` runs thousands, and beside core's nodes.
"""

import sys
import time
from statistics import median

import pytest

from .long_run import REST, WAIT_SECONDS, WORKFLOWS, LongRun, known_results, look
from .server import ComfyServer, on_gpu
from .test_memory_manager import watched

pytestmark = pytest.mark.comfy

PROMPTS = 60
PACES_BYTES = 1024
"""What the file of the last eight runs of each model gets longer or shorter by."""
NOISE_KIB = (256 if on_gpu() else 64) << 10
"""Allocators take and give back dozens of MiB with what the last prompts were; a model that stays
after each prompt is more."""

HEAP_KIB = 2 << 10
"""What is not freed is known to the byte: the history, which ComfyUI keeps, is a hundred KiB."""


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
    until = time.monotonic() + WAIT_SECONDS
    while look(comfy_server, run.sent, REST).files > rests[0].files:
        # A client that has just gone may still have its socket; a file that is kept stays open.
        assert time.monotonic() < until, "files stay open"
        time.sleep(0.2)
    assert len({sample.own_threads for sample in rests}) == 1, "one that stays at every rest"
    disk = [sample.disk_bytes for sample in settled]
    assert max(disk) - min(disk) < PACES_BYTES
    rss = [sample.rss_kib for sample in rests]
    assert median(rss[-3:]) - median(rss[:3]) < NOISE_KIB
    assert settled[-1].heap_kib - settled[0].heap_kib < HEAP_KIB
    comfy_server.free()
    left = watched(comfy_server, "row_held")
    assert (left["threads"], left["files"]) == ([], [])
