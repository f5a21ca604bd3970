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
KIB_A_PROMPT = 1024 if on_gpu() else 128
"""A GPU's driver takes and gives back dozens of MiB all the time."""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
def test_sixty_prompts_in_a_row(comfy_server: ComfyServer):
    comfy_server.free()
    expected = known_results(comfy_server, WORKFLOWS)
    run = LongRun(comfy_server, WORKFLOWS, expected, seed=1)
    run.run(PROMPTS)
    run.compare_all()

    assert run.differences == []
    assert set(run.counts) == {name for name, _ in run._events()}
    first, *_, last = [sample for sample in run.samples if sample.event == REST]
    assert last.files <= first.files
    assert last.threads <= first.threads
    assert last.disk_bytes == first.disk_bytes
    assert last.rss_kib - first.rss_kib < KIB_A_PROMPT * (last.prompts - first.prompts)
    comfy_server.free()
    watched(comfy_server, "going")
    left = watched(comfy_server, "row_held")
    assert (left["threads"], left["files"]) == ([], [])
