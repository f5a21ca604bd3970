"""Every fault at every place of a prompt, on purpose, and whether the next prompt works.

    COMFYUI_PATH=... python benchmarks/faults.py                 # all, some 10 minutes
    COMFYUI_PATH=... python benchmarks/faults.py --faults SIGKILL SIGTERM
    COMFYUI_PATH=... python benchmarks/faults.py --faults exception --places load save

A fault happens once. The prompt after it, which uses what is left, must give what it gives in a
server to which nothing happened, no unfinished file may stay, and at the end no thread of ours and
no open model file. A server that was killed is started again on the same folder. Prints a JSON line
per fault and place and one for all. Runs on toy models, on a CPU.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from torch import Tensor
from websocket import WebSocketException

from benchmarks.lines import emit
from benchmarks.toy_server import toy_folder
from tests.comfy import faults
from tests.comfy.faults import DAMAGES, Fault
from tests.comfy.graphs import node
from tests.comfy.server import ComfyServer

PLACES = ("load", "text load", "frames' load", "text", "cache write", "image encode")
PLACES += ("high expert", "switch", "low expert", "decode")
PLACES += ("conversion", "conversion's end", "save", "save's end")
OF_FILES = ("load", "text load", "frames' load", "cache write")
OF_FILES += ("conversion", "conversion's end", "save", "save's end")

KILLS = ("SIGKILL", "SIGTERM")
FAULTS = ("exception", "interrupt", "memory full", "memory limit", "card full", "disk full")
FAULTS += (*DAMAGES, *KILLS)
WHERE = {"disk full": OF_FILES}
FIRST, NEXT = 7, 8
"""Seeds."""
LOST = (OSError, WebSocketException)
"""What a client gets from a server that dies."""


@dataclass
class Site:
    """One folder, and the server that runs on it at the moment."""

    base: Path
    server: ComfyServer | None = None

    def running(self) -> ComfyServer:
        """Returns the server, started if there is none."""
        if self.server is None:
            comfyui = Path(os.environ["COMFYUI_PATH"]).resolve()
            self.server = ComfyServer(comfyui, self.base).__enter__()
        return self.server

    def stop(self) -> None:
        """Ends it."""
        if self.server is not None:
            self.server.stop()
            self.server = None


def judged(site: Site, fault: Fault, expected: Mapping[str, Tensor]) -> dict[str, object]:
    """Has a fault happen; returns how the prompt ended, and what is wrong afterwards."""
    server = site.running()
    faults.forget(server)
    faults.arm(server, fault)
    said = ""
    try:
        ended = server.run(faults.prompt_for(fault.place, FIRST))
        how, said = ended.status, faults.said(ended)
    except LOST:
        how = "server ended"
    wrong = [] if faults.happened(server) else ["it did not happen"]
    if fault.what in KILLS:
        site.stop()
    elif how == "server ended":
        wrong.append("the server ended")
        site.stop()
    elif left := faults.leftovers(server):
        wrong.append(f"left: {', '.join(file.name for file in left)}")
    server = site.running()
    faults.disarm(server)
    faults.put_back(server)
    again = server.run(faults.prompt_for(fault.place, NEXT))
    if again.status != "success":
        wrong.append(f"the next prompt failed: {faults.said(again)}")
    elif not faults.expect_equal(faults.result(server, fault.place), expected):
        wrong.append("the next prompt gave something else")
    return {"ended": how, "said": said[:200], "wrong": wrong}


def cases(places: list[str], kinds: list[str]) -> Iterator[Fault]:
    """Yields what can happen where; kills last, since each costs a start."""
    for what in kinds:
        for place in places:
            if place in WHERE.get(what, PLACES):
                yield Fault(place, what, "")


def main() -> None:
    """Command line."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--places", nargs="*", choices=PLACES, default=PLACES)
    parser.add_argument("--faults", nargs="*", choices=FAULTS, default=FAULTS)
    options = parser.parse_args()
    count, wrong = 0, []
    with toy_folder() as base:
        site, expected = Site(base), {}
        try:
            for fault in cases(options.places, options.faults):
                if fault.place not in expected:
                    expected[fault.place] = _undisturbed(site, fault.place)
                found = judged(site, fault, expected[fault.place])
                emit("faults", {"place": fault.place, "fault": fault.what, **found})
                count += 1
                if found["wrong"]:
                    wrong.append(fault.name)
            faults.forget(site.running())
            left = _left(site.running())
        finally:
            site.stop()
    emit("faults_all", {"faults": count, "wrong": wrong, "left": left})
    sys.exit(1 if wrong or any(left.values()) else 0)


def _undisturbed(site: Site, place: str) -> Mapping[str, Tensor]:
    server = site.running()
    faults.forget(server)
    ended = server.run(faults.prompt_for(place, NEXT))
    assert ended.status == "success", ended.error
    return faults.result(server, place)


def _left(server: ComfyServer) -> dict[str, list[str]]:
    """Returns threads and open model files of a server that has been told to free all."""
    for name in ("going", "gone"):
        server.run({"look": node("WanDuetTestWatched", name=name)})
    seen = json.loads((server.output / "gone.jsonl").read_text().splitlines()[-1])
    return {key: seen[key] for key in ("threads", "files")}


if __name__ == "__main__":
    main()
