"""Block swap: models larger than the device's memory.

    plan = make_plan(PlanRequest(sizes=..., machine=..., work=..., limits=Limits()))
    engine = OffloadEngine([HostModel(dit, dit.blocks, regions)], plan, open_device("cuda"))
    velocity = engine.run(0, partial(dit.velocity, latent, timestep, text, cond))

A plan (`plan`) says which blocks stay on the device and through how many buffers the others pass.
`traffic` decides what travels when, `feeder` does it on a thread of its own, from files or pinned
memory (`host_model`, `slab`), through what a device offers (`device_queues`). `engine` puts weights
into their modules for as long as they run. Two experts are two models of one engine.
"""

from .device_queues import CudaDevice, Device, PlainDevice, open_device
from .engine import OffloadEngine, OnArrival, Runner
from .host_model import Extra, FileRegion, HostModel, sizes_of
from .plan import Limits, Machine, ModelSizes, Plan, PlanRequest, Work, lowered, make_plan
from .rates import (
    Pace,
    Stopwatch,
    measure_copy,
    measure_matmul,
    measure_memory,
    measure_read,
)
from .read_ahead import ReadAhead
from .slack import AllocatorSlack

__all__ = [
    "AllocatorSlack",
    "CudaDevice",
    "Device",
    "Extra",
    "FileRegion",
    "HostModel",
    "Limits",
    "Machine",
    "ModelSizes",
    "OffloadEngine",
    "OnArrival",
    "Pace",
    "PlainDevice",
    "Plan",
    "PlanRequest",
    "ReadAhead",
    "Runner",
    "Stopwatch",
    "Work",
    "lowered",
    "make_plan",
    "measure_copy",
    "measure_matmul",
    "measure_memory",
    "measure_read",
    "open_device",
    "sizes_of",
]
