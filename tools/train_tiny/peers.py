"""Several GPUs that train one stage together, one process each.

Each sees clips of its own, and all of them take the mean of their weights after every few steps.
That is nearly one training with a batch so many times as large (Stich, arXiv:1805.09767), and
leaves the step itself, which is recorded as a CUDA graph, as it is.
"""

import os
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

AVERAGE_STEPS = 10
"""Steps after which weights are averaged. More than are run before a step is recorded: while it is,
nothing may be on its way between GPUs."""

PATIENCE = timedelta(minutes=4)
"""How long one waits for the others, which may still make their clips."""


@dataclass(frozen=True)
class Peers:
    """Which of how many processes this one is."""

    rank: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """Whether this one validates, and writes files."""
        return self.rank == 0

    @property
    def key(self) -> tuple[int, ...]:
        """Part of the keys of random numbers; the first process has those of one alone."""
        return (self.rank,) if self.rank else ()

    def average(self, tensors: list[Tensor]) -> None:
        """Replaces tensors of one dtype by their means over all processes."""
        if self.count == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        flat /= self.count
        parts = flat.split([tensor.numel() for tensor in tensors])
        means = [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]
        torch._foreach_copy_(tensors, means)

    def as_the_first(self, numbers: tuple[int, ...], device: torch.device) -> tuple[int, ...]:
        """Returns the whole numbers that the first process has."""
        if self.count == 1:
            return numbers
        shared = torch.tensor(numbers, device=device)
        dist.broadcast(shared, src=0)
        return tuple(int(number) for number in shared.tolist())

    def wait(self) -> None:
        """Waits for all others, such as for a file that the first one writes."""
        if self.count > 1:
            dist.barrier()

    def leave(self) -> None:
        """Ends what `open_peers` has begun."""
        if self.count > 1:
            dist.destroy_process_group()


ALONE = Peers()


def open_peers(device: torch.device) -> tuple[Peers, torch.device]:
    """Meets the other processes, if `torchrun` has started several.

    Args:
        device: of training; on GPUs each process takes the one of its own number.

    Returns:
        The peers, and the device of this process.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return ALONE, device
    if device.type != "cuda":
        dist.init_process_group("gloo", timeout=PATIENCE)
        return Peers(dist.get_rank(), count), device
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    dist.init_process_group("nccl", timeout=PATIENCE, device_id=device)
    return Peers(dist.get_rank(), count), device
