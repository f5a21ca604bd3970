"""Contestants in processes of their own that take turns on one GPU, call by call.

Clock and temperature are then alike for all, what one sets in torch reaches no other, and a first
call has in it whatever a fresh process compiles. All contestants stay in memory until the last
turn, and the order of turns is reversed every second time.

A benchmark starts itself again for each process, with an option that has it `serve`; forward.py
and vae.py show how.
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from benchmarks.timing import Timing, clock_samples, elapsed
from wan_model.errors import BackendError

Answer = dict[str, Any]


class Process:
    """A process that has built something, and does with it what it is asked to."""

    def __init__(self, command: Sequence[str]) -> None:
        """Starts it; it builds meanwhile.

        Args:
            command: of Python: a script that calls `serve`, and its arguments.
        """
        self._process = subprocess.Popen(
            [sys.executable, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def answer(self) -> Answer:
        """Returns its next answer; the first is what `serve` was given to tell.

        Raises:
            BackendError: what went wrong there.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise BackendError(
                f"A contestant has ended with {self._process.wait()}. What it printed says why."
            )
        answer = json.loads(line)
        if "failed" in answer:
            raise BackendError(answer["failed"])
        return answer

    def ask(self, request: Mapping[str, Any]) -> Answer:
        """Has it do something, and returns its answer.

        Raises:
            BackendError: what went wrong there.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise BackendError(f"A contestant takes no requests: {error}") from error
        return self.answer()

    def end(self) -> None:
        """Ends it, whatever it is doing."""
        self._process.kill()
        self._process.communicate()


@dataclass
class Contestant:
    """Who is measured, and what was."""

    name: str
    process: Process
    request: Mapping[str, Any] = field(default_factory=dict)
    """Of every turn, beside what is measured: options of this contestant."""
    own: Answer = field(default_factory=dict)
    """What is printed of it beside its numbers."""
    timings: dict[str, Timing] = field(default_factory=dict)
    """By what was measured."""
    failed: str = ""

    def begin(self) -> None:
        """Waits until it is built; what is not takes no turns."""
        try:
            self.own |= self.process.answer()
        except BackendError as error:
            self.fail(str(error))

    def ask(self, request: Mapping[str, Any]) -> Answer | None:
        """Has its process do something; None where that fails, which stops it alone."""
        if self.failed:
            return None
        try:
            return self.process.ask({**request, **self.request})
        except BackendError as error:
            self.fail(str(error))
            return None

    def fail(self, reason: str) -> None:
        """Leaves it out from now on."""
        self.failed = reason
        sys.stderr.write(f"{self.name}: {reason}\n")


def take_turns(
    contestants: Sequence[Contestant], what: str, request: Mapping[str, Any], turns: int
) -> None:
    """Measures a first call of each contestant, then `turns` more, one by one.

    Args:
        contestants: who; `timings` get what was measured.
        what: its key there.
        request: of a call.
        turns: that count.
    """
    first = {one.name: one.ask(request) for one in contestants}
    seconds: dict[str, list[float]] = {one.name: [] for one in contestants}
    peaks: dict[str, list[int]] = {one.name: [] for one in contestants}
    with clock_samples() as clock:
        for turn in range(turns):
            for one in contestants if turn % 2 == 0 else reversed(contestants):
                answer = one.ask(request)
                if answer is not None:
                    seconds[one.name].append(answer["seconds"])
                    peaks[one.name] += [answer["peak_bytes"]] * (answer["peak_bytes"] is not None)
    for one in contestants:
        begun = first[one.name]
        if begun is not None and seconds[one.name]:
            peak = max(peaks[one.name], default=None)
            times = tuple(seconds[one.name])
            one.timings[what] = Timing(begun["seconds"], times, peak, clock())


def ratios(ours: Timing, theirs: Timing) -> dict[str, float]:
    """Returns ours / theirs: of medians with the standard error of the turns' ratios, of memory."""
    found = {"ratio": statistics.median(ours.seconds) / statistics.median(theirs.seconds)}
    pairs = [mine / its for mine, its in zip(ours.seconds, theirs.seconds, strict=False)]
    if len(pairs) > 1:
        found["ratio_error"] = statistics.stdev(pairs) / len(pairs) ** 0.5
    if ours.peak_bytes is not None and theirs.peak_bytes:
        found["peak_ratio"] = ours.peak_bytes / theirs.peak_bytes
    return {key: round(value, 4 if key == "ratio_error" else 3) for key, value in found.items()}


@contextmanager
def processes(commands: Sequence[Sequence[str]]) -> Iterator[list[Process]]:
    """Starts processes at once, and ends them behind the block.

    Args:
        commands: see `Process`.
    """
    started: list[Process] = []
    try:
        for command in commands:
            started.append(Process(command))
        yield started
    finally:
        for process in started:
            process.end()


def serve(build: Callable[[], tuple[Answer, Callable[[Answer], Answer]]]) -> None:
    """In a contestant's process: builds, then answers what it is asked until nobody is left.

    Whatever is printed meanwhile goes to stderr.

    Args:
        build: returns what is known of the contestant, and what answers a request.
    """
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)

        def tell(make: Callable[[], Answer]) -> bool:
            try:
                found = make()
            except (BackendError, RuntimeError) as error:
                out_of_memory = isinstance(error, torch.OutOfMemoryError)
                found = {"failed": "out of memory" if out_of_memory else str(error)}
            answers.write(json.dumps(found) + "\n")
            answers.flush()
            return "failed" not in found

        made = []

        def begin() -> Answer:
            about, answer = build()
            made.append(answer)
            return about

        if tell(begin):
            for line in sys.stdin:
                tell(partial(made[0], json.loads(line)))


def timed(call: Callable[[], object], device: torch.device) -> Answer:
    """Returns the seconds of a call, and the most memory that it had beyond what was there."""
    if device.type != "cuda":
        return {"seconds": elapsed(call, device), "peak_bytes": None}
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    seconds = elapsed(call, device)
    peak = torch.cuda.max_memory_allocated(device) - before
    return {"seconds": seconds, "peak_bytes": peak}
