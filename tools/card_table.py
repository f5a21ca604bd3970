"""Prints the table "your card" of README.md, from the planner itself: `python -m tools.card_table`.

Everything in it is an estimate. Rates are those of NVIDIA's data sheets, of which a card is taken
to reach a part, as measured cards do; memory is what `wan_model` counts for a forward pass.
"""

import argparse
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from wan_model.attention import resolve
from wan_model.config import OFFICIAL, DiTConfig, Kind, Precision
from wan_model.dit import WanDiT
from wan_model.dit.pass_time import DeviceRates, block_seconds
from wan_model.errors import MemoryLimitError
from wan_model.gpu_classes import gpu_class
from wan_model.offload.plan import GIB, Machine, ModelSizes, Plan, PlanRequest, Work, make_plan
from wan_model.offload.slack import AllocatorSlack
from wan_model.quant import Linear
from wan_model.quant.formats import BF16, FP8_SCALED
from wan_model.shapes import latent_size

README = Path(__file__).parents[1] / "README.md"
START, END = "<!-- cards: python -m tools.card_table -->", "<!-- /cards -->"

REACHED = 0.8
"""Part of a data sheet's rates; an H200 reaches 0.74 of its matmuls' and 0.87 of its memory's."""

TAKEN = int(1.1 * GIB)
"""Of a card's memory: CUDA's context, the desktop, and what ComfyUI leaves free."""

FREE_RAM = 24 * GIB
"""Of a computer with 32 GB."""

MAX_SECONDS = 5
"""Of video: what the models were trained on."""


@dataclass(frozen=True)
class Card:
    """A graphics card by its data sheet."""

    name: str
    memory_gib: int
    capability: tuple[int, int]
    tflops: float
    """Dense, 16 bit, summed in fp32."""
    gbytes: float
    """Of memory, per second."""


CARDS = (
    Card("RTX 4060", 8, (8, 9), 30, 272),
    Card("RTX 3060", 12, (8, 6), 25, 360),
    Card("RTX 4070", 12, (8, 9), 58, 504),
    Card("RTX 4060 Ti", 16, (8, 9), 44, 288),
    Card("RTX 5070 Ti", 16, (12, 0), 88, 896),
    Card("RTX 3090", 24, (8, 6), 71, 936),
    Card("RTX 4090", 24, (8, 9), 165, 1008),
    Card("RTX 5090", 32, (12, 0), 209, 1792),
)


@dataclass(frozen=True)
class Video:
    """What is to be made, and how."""

    kind: Kind
    width: int
    height: int
    passes: int
    """Forward passes of a run: two a step with guidance."""


A14B = DiTConfig(
    dim=5120, ffn_dim=13824, num_heads=40, num_layers=1, in_channels=16, out_channels=16
)
TI2V = DiTConfig(
    dim=3072, ffn_dim=14336, num_heads=24, num_layers=1, in_channels=48, out_channels=48
)
BLOCKS: dict[Kind, int] = {"t2v": 40, "ti2v": 30}

COLUMNS = (
    ("14B, 480p, 4-step LoRA", Video("t2v", 832, 480, 4)),
    ("14B, 480p, 20 steps", Video("t2v", 832, 480, 40)),
    ("14B, 720p, 20 steps", Video("t2v", 1280, 720, 40)),
    ("5B, 720p, 30 steps", Video("ti2v", 1280, 704, 60)),
)


@cache
def model_of(kind: Kind) -> WanDiT:
    """Returns a model with one block, without memory, of what the README's files hold.

    That is fp8 for 14B, whose files ask for 16-bit matmuls, and 16 bit for 5B.

    Args:
        kind: "t2v" or "ti2v".
    """
    config = A14B if kind == "t2v" else TI2V
    with torch.device("meta"):
        dit = WanDiT(
            config,
            precision=Precision(compute_dtype=torch.bfloat16),
            attention=resolve("sdpa"),
        )
        for layer in dit.blocks.modules():
            if isinstance(layer, Linear):
                stored = FP8_SCALED if kind == "t2v" else BF16
                layer.put(stored.quantize(layer.weight))
    return dit


def plan_of(card: Card, video: Video, frames: int) -> Plan:
    """Returns what the weights engine would do.

    Raises:
        MemoryLimitError: if it does not fit.
    """
    dit = model_of(video.kind)
    blocks = BLOCKS[video.kind]
    parameters = sum(p.numel() for p in dit.parameters())
    inside = sum(t.nbytes for t in dit.blocks.state_dict().values())
    outside = 2 * (parameters - sum(p.numel() for p in dit.blocks.parameters()))
    size = latent_size(video.width, video.height, frames, OFFICIAL[video.kind].size_multiple // 2)
    activations = dit.activation_bytes(1, size.frames, size.height, size.width, "fused")
    rates = DeviceRates(
        matmul_flops=REACHED * card.tflops * 1e12,
        copied_bytes=REACHED * card.gbytes * 1e9,
        gpu=gpu_class(card.capability),
    )
    work = Work(
        activation_bytes=activations,
        block_seconds=block_seconds(dit, 1, size.tokens, rates, "fused"),
        slack_bytes=AllocatorSlack(torch.device("cuda")).expected(activations),
    )
    sizes = ModelSizes(
        blocks=blocks,
        block_bytes=inside,
        outside_bytes=outside,
        experts=2 if video.kind == "t2v" else 1,
    )
    machine = Machine(
        free_vram_bytes=card.memory_gib * GIB - TAKEN,
        free_ram_bytes=FREE_RAM,
        copy_rate=20e9,
    )
    return make_plan(PlanRequest(sizes=sizes, machine=machine, work=work))


def cell(card: Card, video: Video) -> str:
    """Returns the minutes that a video of five seconds takes, or how long one may be."""
    fps = OFFICIAL[video.kind].fps
    for seconds in range(MAX_SECONDS, 0, -1):
        try:
            plan = plan_of(card, video, seconds * fps + 1)
        except MemoryLimitError:
            continue
        time = rounded(video.passes * plan.seconds)
        return time if seconds == MAX_SECONDS else f"{time} ({seconds} s of video at most)"
    return "does not fit"


def rounded(seconds: float) -> str:
    """Returns a time that claims no more than an estimate can."""
    minutes = seconds / 60
    if minutes < 1:
        return "under 1 min"
    step = 1 if minutes < 10 else 5
    whole = max(1, round(minutes / step) * step)
    return f"{whole} min" if whole < 60 else f"{whole / 60:.1f} h"


def table() -> str:
    """Returns the table as Markdown."""
    titles = ("card", *(title for title, _ in COLUMNS))
    lines = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    for card in CARDS:
        cells = [cell(card, video) for _, video in COLUMNS]
        lines.append(f"| {card.memory_gib} GB, {card.name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.card_table", description=__doc__)
    parser.add_argument("--write", action="store_true", help="put it into README.md")
    made = table()
    if not parser.parse_args().write:
        print(made)
        return
    before, _, rest = README.read_text("utf-8").partition(START)
    after = rest.partition(END)[2]
    README.write_text(f"{before}{START}\n{made}\n{END}{after}", "utf-8")


if __name__ == "__main__":
    main()
