"""Values of wrong types at every input of ours: refused at that input, and nowhere else."""

import pytest

from .server import ComfyServer
from .wrong_values import OURS, TESTS, every_node, inputs_of, judged

pytestmark = pytest.mark.comfy


def test_every_input_refuses_wrong_types(comfy_server: ComfyServer):
    """Each once; `benchmarks/wrong_values.py` runs thousands."""
    kinds = {made["class_type"] for made in every_node().values()}
    ours = [kind for kind in comfy_server.object_info() if kind.startswith(OURS)]
    assert {kind for kind in ours if not kind.startswith(TESTS)} <= kinds

    inputs = inputs_of(comfy_server)
    found = [judged(comfy_server, inputs, number) for number in range(len(inputs))]
    assert [each for each in found if each] == []
