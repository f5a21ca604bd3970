"""Opens, builds and uses broken model files, and prints what was not refused as it should be.

`python benchmarks/fuzz.py --cases 100000 --workers 4` runs that many, `--case N` one of them, in
this process. A file must be used, or refused with a typed error, in time and memory that its size
justifies, and nothing outside of its folder may be touched. A worker that dies or hangs is a find,
too, and a new one goes on behind it. Needs the packages of requirements/dev.txt.
"""

import argparse
import collections
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from benchmarks.lines import emit
from tests.fuzz.cases import Outcome, run_case
from tests.fuzz.originals import originals

SECONDS = 60
"""Of no word from a worker, after which its case has hung."""

MORE_BYTES = 4 << 30
"""Of address space than a worker has at its start; its cases count what they really take."""

EXAMPLES = 3
"""Printed of each kind of find."""


class Worker:
    """A process that runs every so manyth case, and tells which."""

    def __init__(self, first: int, end: int, step: int) -> None:
        """Starts it."""
        self.next, self.end, self.step = first, end, step
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe(duplex=False)
        self.process = context.Process(target=_work, args=(theirs, first, end, step), daemon=True)
        self.process.start()
        theirs.close()
        self.heard, self.over = time.monotonic(), False

    def outcomes(self) -> Iterator[Outcome]:
        """Yields what it has told since; of a dead or silent one, how its case ended."""
        try:
            while self.connection.poll():
                outcome = self.connection.recv()
                self.heard, self.next = time.monotonic(), outcome.number + self.step
                yield outcome
        except EOFError:
            self.process.join()
            self.over = True
            if self.next < self.end:
                yield self._lost(f"the process died ({self.process.exitcode})")
        if not self.over and time.monotonic() - self.heard > SECONDS:
            self.process.kill()
            self.process.join()
            self.over = True
            yield self._lost(f"nothing for {SECONDS} s")

    def _lost(self, how: str) -> Outcome:
        number, self.next = self.next, self.next + self.step
        return Outcome(number, "?", how)


def _work(connection: Connection, first: int, end: int, step: int) -> None:
    torch.set_num_threads(1)
    originals()
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MORE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    with tempfile.TemporaryDirectory() as folder:
        for number in range(first, end, step):
            connection.send(run_case(number, Path(folder)))


def outcomes(first: int, end: int, count: int) -> Iterator[Outcome]:
    """Yields how cases ended, in any order."""
    workers = [Worker(first + i, end, count) for i in range(count)]
    while workers:
        wait([worker.connection for worker in workers], timeout=1)
        for worker in list(workers):
            yield from worker.outcomes()
            if not worker.over:
                continue
            workers.remove(worker)
            if worker.next < end:
                workers.append(Worker(worker.next, end, count))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--case", type=int, help="only this one")
    options = parser.parse_args()
    if options.case is not None:
        with tempfile.TemporaryDirectory() as folder:
            print(run_case(options.case, Path(folder)))
        return
    started = time.monotonic()
    ended, kinds = collections.Counter[str](), collections.Counter[str]()
    for outcome in outcomes(options.first, options.first + options.cases, options.workers):
        ended[outcome.ended] += 1
        kinds[outcome.kind.partition(" as ")[0]] += 1
        if outcome.found and ended[outcome.ended] <= EXAMPLES:
            print(outcome, file=sys.stderr)
    values = {"first": options.first, "cases": sum(ended.values()), "ended": dict(ended)}
    values["kinds"] = dict(sorted(kinds.items()))
    emit("fuzz", {**values, "seconds": round(time.monotonic() - started, 1)})
    sys.exit(1 if ended.keys() - {"used", "refused"} else 0)


if __name__ == "__main__":
    main()
