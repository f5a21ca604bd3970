"""Training steps as CUDA graphs: recorded once, then started as one piece of work.

A step of these small networks is 2000 to 6000 kernels of some microseconds each, which Python may
start more slowly than an H100 runs them: a VAE's step took 166 ms without graphs and 45 with.
"""

from collections.abc import Callable

import torch

from .data import Batch

WARM_UP_STEPS = 3
"""Steps run as usual before recording: libraries choose kernels, optimisers make their state."""

Step = Callable[[Batch], Batch]
"""Changes the model by a batch and returns what is to be logged."""


class GraphedStep:
    """Runs a step; on a GPU, after a few times with inputs of the same shapes, from a graph."""

    def __init__(self, step: Step, device: torch.device) -> None:
        """Takes the step, which must draw no random numbers and not wait for the device."""
        self.step, self.device = step, device
        self.shapes: dict[str, torch.Size] = {}
        self.runs = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.inputs: Batch = {}
        self.outputs: Batch = {}

    def __call__(self, batch: Batch) -> Batch:
        """Runs the step; what it returns is overwritten by the next call."""
        if self.device.type != "cuda":
            return self.step(batch)
        shapes = {name: tensor.shape for name, tensor in batch.items()}
        if shapes != self.shapes:
            self.shapes, self.runs, self.graph = shapes, 0, None
        self.runs += 1
        if self.runs <= WARM_UP_STEPS:
            return self._aside(batch)
        graph = self.graph
        if graph is None:
            self.inputs = {name: tensor.clone() for name, tensor in batch.items()}
            graph = self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self.outputs = self.step(self.inputs)
        for name, tensor in batch.items():
            self.inputs[name].copy_(tensor)
        graph.replay()
        return self.outputs

    def _aside(self, batch: Batch) -> Batch:
        """Runs a step beside the main stream, as recording will."""
        aside, main = torch.cuda.Stream(), torch.cuda.current_stream()
        aside.wait_stream(main)
        with torch.cuda.stream(aside):
            outputs = self.step(batch)
        main.wait_stream(aside)
        return outputs
