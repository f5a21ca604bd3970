"""Things that go wrong on purpose, place by place: the next prompt works, and nothing is left.

`benchmarks/faults.py` has every fault at every place, killed servers too.
"""

from collections.abc import Iterator, Mapping

import pytest
from torch import Tensor

from .faults import (
    DAMAGES,
    SUFFIX,
    Fault,
    arm,
    expect_equal,
    forget,
    happened,
    leftovers,
    prompt_for,
    put_back,
    result,
    said,
)
from .server import ComfyServer
from .test_memory_manager import watched

pytestmark = pytest.mark.comfy

FAULTS = [
    Fault("load", "disk full", "error"),
    Fault("text", "exception", "error"),
    Fault("cache write", "disk full", "success"),
    Fault("cache write", "exception", "error"),
    Fault("image encode", "memory full", "error"),
    Fault("image encode", "cut off", "error"),
    Fault("high expert", "replaced", "success"),
    Fault("switch", "interrupt", "interrupted"),
    Fault("switch", "exception", "error"),
    Fault("low expert", "card full", "success"),
    Fault("low expert", "memory full", "error"),
    Fault("decode", "card full", "success"),
    Fault("conversion", "disk full", "success"),
    Fault("conversion's end", "exception", "error"),
    Fault("save", "exception", "error"),
    Fault("save", "cut off", "error"),
    Fault("save's end", "disk full", "error"),
]

Expected = Mapping[tuple[str, int], Mapping[str, Tensor]]
PLACES = ("video", "conversion", "save")


FIRST, NEXT = 7, 8
"""Seeds of the prompt that fails, and of that behind it, which uses what is left of it."""


@pytest.fixture(scope="module")
def expected(comfy_server: ComfyServer) -> Iterator[Expected]:
    """What the prompts give when nothing goes wrong."""
    found = {}
    for place in PLACES:
        forget(comfy_server)
        for seed in (FIRST, NEXT)[place == "save" :]:
            ended = comfy_server.run(prompt_for(place, seed))
            assert ended.status == "success", ended.error
            found[place, seed] = result(comfy_server, place)
    yield found
    forget(comfy_server)
    assert watched(comfy_server, "faults") == {"alive": [], "threads": [], "files": []}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_next_prompt_works(comfy_server: ComfyServer, expected: Expected, fault: Fault):
    forget(comfy_server)
    arm(comfy_server, fault)
    ended = comfy_server.run(prompt_for(fault.place, FIRST))
    assert happened(comfy_server)
    assert ended.status == fault.ends, said(ended)
    assert leftovers(comfy_server) == []
    place = next((name for name in PLACES if fault.place.startswith(name)), "video")
    if ended.status == "success" and fault.place != "decode":  # tiles are not exact
        assert expect_equal(result(comfy_server, fault.place), expected[place, FIRST])

    if fault.what in DAMAGES:
        assert ended.status == "success" or SUFFIX in said(ended)  # it names the file
        put_back(comfy_server)
    again = comfy_server.run(prompt_for(fault.place, NEXT))
    assert again.status == "success", again.error
    assert expect_equal(result(comfy_server, fault.place), expected[place, NEXT])
