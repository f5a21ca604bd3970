"""What a device's allocator holds beyond what is alive: guessed at first, then learned."""

from dataclasses import replace

import torch

from ..errors import MemoryLimitError
from .plan import Plan, PlanRequest, lowered, make_plan

LEAST_BYTES = 256 << 20
"""On an H200 whose memory was taken up to a smaller card's, the allocator held 180 to 340 MiB more
than was planned (benchmarks/RESULTS.md, "Block swap"); of 8 sessions of a server 3 ran short."""

ACTIVATION_PART = 16
"""Of the activations: long videos have larger tensors, and gaps between them are as large."""


class AllocatorSlack:
    """The memory to be left free beside a forward pass, by the size of its activations."""

    def __init__(self, device: torch.device) -> None:
        """Knows nothing yet.

        Args:
            device: that computes. Others than CUDA ones allocate from the system.
        """
        self._device = device
        self._learned: dict[int, int] = {}

    def expected(self, activation_bytes: int) -> int:
        """Returns what is left free before anything was learned."""
        if self._device.type != "cuda":
            return 0
        return max(LEAST_BYTES, activation_bytes // ACTIVATION_PART)

    def of(self, activation_bytes: int) -> int:
        """Returns what is left free beside so many bytes of activations.

        Free parts of segments that are in use elsewhere come on top: large tensors find no room
        there, and the allocator cannot give them back.
        """
        usual = self.expected(activation_bytes) + self._learned.get(activation_bytes, 0)
        return usual + min(self._scattered, activation_bytes)

    def plan(self, request: PlanRequest) -> Plan:
        """Returns a plan that leaves what the request says, or comes as near to it as it can.

        Args:
            request: whose work leaves what `of` returned.

        Raises:
            MemoryLimitError: if the video does not fit beside what is left free at first, either.
        """
        try:
            return make_plan(request)
        except MemoryLimitError:
            work = request.work
            usual = self.expected(work.activation_bytes)
            if usual >= work.slack_bytes:
                raise
            plan = make_plan(replace(request, work=replace(work, slack_bytes=usual)))
            return lowered(plan, work.slack_bytes - usual)

    @property
    def _scattered(self) -> int:
        """All of it, though smaller tensors find room there: `plan` does not insist on it."""
        if self._device.type != "cuda":
            return 0
        stats = torch.cuda.memory_stats(self._device)
        return int(stats.get("inactive_split_bytes.large_pool.current", 0))

    def add(self, activation_bytes: int, nbytes: int) -> None:
        """Learns that so much more would have been needed."""
        self._learned[activation_bytes] = self._learned.get(activation_bytes, 0) + nbytes

    @property
    def shortages(self) -> int:
        """How often the allocator had to give its cache back to find room, since it began."""
        if self._device.type != "cuda":
            return 0
        return int(torch.cuda.memory_stats(self._device).get("num_alloc_retries", 0))
