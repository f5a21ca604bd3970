"""One forward pass of a transformer with random weights at full size: time, memory, error.

    python benchmarks/forward.py a14b 832x480x81 1280x720x81 --compile --beside comfyui

Each contestant is built, measured at every size and freed, ours first; with --rounds 2 all take
their turn twice, and the medians are of all repeats: clock, power and temperature, printed with
every line, show whether the turns were alike. Weights, inputs and process are the same for all.

To compare with ComfyUI set COMFYUI_PATH to its source tree and install its requirements into this
Python (torchvision among them). --format fp8 lets ComfyUI use its own fp8 matmuls. On a smaller
card, `--layers N` measures N of the blocks: nearly the ratios of the whole, but the times of the
slice. `toy 64x64x5 --device cpu` shows in seconds whether all is set up.

Prints JSON lines; `>> benchmarks/results/forward.jsonl` keeps them for report.py. Per contestant
and size: the seconds of the first pass, which compiles with --compile, median seconds of the others
and peak memory above the weights; of ours also the floor, see floors.py, and the ceilings that it
follows from. Then ratios to the peers, and with --error-frames the rms error relative to fp32 on a
shorter video.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import loras
from benchmarks.ceilings import forward_rates
from benchmarks.fit import check_fit
from benchmarks.floors import forward_floor, forward_work
from benchmarks.lines import emit
from benchmarks.peers import PEERS, Built, Peer, build_dit, random_value
from benchmarks.timing import Timing, device_called, measure, release
from wan_model.attention import AttentionFn, copies_of, names, resolve
from wan_model.attention.registry import Selected
from wan_model.config import DiTConfig, Precision
from wan_model.dit import BlockRunner, WanDiT, run_in_order
from wan_model.dit.activation_memory import activation_bytes
from wan_model.dit.compiled_stages import CompiledStages
from wan_model.dit.stage_choice import FastestStages, with_stages
from wan_model.errors import BackendError, WanError
from wan_model.quant import AS_STORED, PLAIN, Linear, StoredWeight, policy_for
from wan_model.quant import names as format_names
from wan_model.shapes import LatentSize, latent_size

OURS = "wan-duet"
A14B = DiTConfig(
    dim=5120, ffn_dim=13824, num_heads=40, num_layers=40, in_channels=16, out_channels=16
)
TI2V_5B = DiTConfig(
    dim=3072, ffn_dim=14336, num_heads=24, num_layers=30, in_channels=48, out_channels=48
)
TOY = replace(A14B, dim=256, ffn_dim=512, num_heads=2, num_layers=2)
CONFIGS = {"a14b": (A14B, 8), "5b": (TI2V_5B, 16), "toy": (TOY, 8)}
"""Sizes and spatial stride of the VAE. The toy is there to try this script."""

Inputs = tuple[Tensor, Tensor, Tensor]
"""Latent, timestep, text."""

STAGES = ("fused", "compiled", "plain")
"""What does the work between matmuls: our kernels, torch.compile, or PyTorch's own operations."""


@dataclass(frozen=True)
class Task:
    """What all contestants are to do."""

    model: str
    config: DiTConfig
    stride: int
    precision: Precision
    """Of our arithmetic."""
    weight_format: str
    device: torch.device
    sizes: tuple[str, ...]
    repeats: int
    error_frames: int
    peers: tuple[Peer, ...]

    def latent(self, size: str) -> LatentSize:
        """Returns latent frames, height and width of WIDTHxHEIGHTxFRAMES."""
        width, height, frames = (int(part) for part in size.split("x"))
        return latent_size(width, height, frames, self.stride)

    def estimate_bytes(self, size: str, attention: AttentionFn) -> int:
        """Returns what our planner reckons with beside the weights."""
        latent = astuple(self.latent(size))
        return activation_bytes(
            self.config, self.precision, 1, *latent, attention_copies=copies_of(attention)
        )

    def inputs(self, size: str) -> Inputs:
        """Returns random latent, timestep and text for one clip."""
        generator = torch.Generator(self.device).manual_seed(1)
        shape = (1, self.config.out_channels, *astuple(self.latent(size)))
        latent = torch.randn(shape, generator=generator, device=self.device)
        text_shape = (1, 100, self.config.text_dim)
        text = torch.randn(text_shape, generator=generator, device=self.device)
        return latent, torch.tensor([900.0], device=self.device), text

    def about(self) -> dict[str, Any]:
        """Returns what is printed in every line."""
        about = {"model": self.model, "format": self.weight_format}
        layers, full = self.config.num_layers, CONFIGS[self.model][0].num_layers
        return about if layers == full else {**about, "layers": layers, "of_layers": full}


def random_dit(
    config: DiTConfig,
    precision: Precision,
    weight_format: str,
    attention: AttentionFn,
    device: torch.device,
) -> WanDiT:
    """Returns a model on `device` whose weights are drawn one by one, seeded by their names."""
    with torch.device("meta"):
        model = WanDiT(config, precision=precision, attention=attention)
    policy = None if weight_format == AS_STORED else policy_for(weight_format, device)
    for name, parameter in list(model.named_parameters()):
        path, _, leaf = name.rpartition(".")
        owner = model.get_submodule(path)
        value = random_value(name, parameter.shape, device)
        if policy and isinstance(owner, Linear) and owner.compute_dtype != torch.float32:
            value = value.bfloat16()
            if leaf == "weight":
                policy.place(owner, StoredWeight(PLAIN[value.dtype], value), device)
                continue
        setattr(owner, leaf, torch.nn.Parameter(value, requires_grad=False))
    return model


def attention_of(name: str) -> AttentionFn:
    """Returns a backend; "auto" compares them anew, as it does the first time on a machine."""
    with tempfile.TemporaryDirectory() as folder:
        return resolve(name, memory=Path(folder) / "attention.json")


def label_of(attention: AttentionFn) -> str:
    """Returns the name of a backend."""
    return attention.backend.name if isinstance(attention, Selected) else "sdpa"


def runner_of(stages: str, precision: Precision) -> BlockRunner:
    """Returns what runs the blocks, with stages of a kind of `STAGES`."""
    if stages == "compiled":
        return CompiledStages().around(run_in_order)
    if stages == "fused":
        return with_stages(run_in_order, FastestStages(precision))
    return run_in_order


def build_ours(task: Task, attention: AttentionFn, stages: str, lora: bool = False) -> Built:
    """Returns our transformer, if it fits."""
    if task.device.type == "cuda":
        free_bytes = torch.cuda.mem_get_info(task.device)[0]
        largest = max(task.estimate_bytes(size, attention) for size in task.sizes)
        check_fit(task.config, task.weight_format, largest, free_bytes, bool(task.peers))
    runner = runner_of(stages, task.precision)
    model = random_dit(task.config, task.precision, task.weight_format, attention, task.device)

    if lora and not loras.give(model, task.device):
        raise BackendError("LoRAs are merged into these weights: the pass is that without one.")

    def predict(latent: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        return model.velocity(latent, timestep, text, None, runner)

    return Built(OURS + loras.WITH_LORA * lora, label_of(attention), predict)


def expectations(task: Task, attention: AttentionFn, size: str) -> dict[str, float]:
    """Returns our memory estimate and our floor; prints the ceilings that it follows from."""
    tokens = task.latent(size).tokens
    rates = forward_rates(task.config, tokens, attention, task.device)
    emit("ceilings", {"model": task.model, "size": size, "attention": label_of(attention), **rates})
    work = forward_work(task.config, tokens, task.weight_format)
    estimate = {"estimate_gib": round(task.estimate_bytes(size, attention) / 2**30, 3)}
    return estimate | forward_floor(work, task.weight_format, rates)


@dataclass
class Contestant:
    """One implementation and what was measured of it so far."""

    name: str
    build: Callable[[], Built]
    own: dict[str, Any] = field(default_factory=dict)
    """Options that only it has."""
    expected: Callable[[str], dict[str, float]] = field(default=lambda _: {})
    """What else is known of its pass at a size; asked for after the pass was measured."""
    timings: dict[str, Timing] = field(default_factory=dict)
    short: Tensor | None = None
    """What it predicts for the short video."""

    def take_turn(self, task: Task) -> None:
        """Builds the model, measures all sizes, prints a line for each, frees the model."""
        built = self.build()
        about = {**task.about(), "contestant": self.name, "label": built.label, **self.own}
        if built.attention:
            about["attention"] = built.attention
        for size in task.sizes:
            inputs = task.inputs(size)
            timing = measure(partial(built.run, *inputs), task.repeats, task.device)
            if size in self.timings:
                timing = self.timings[size].merged(timing)
            self.timings[size] = timing
            columns = {**timing.columns(), **self.expected(size)}
            emit("forward", {**about, "size": size, **columns})
        if task.error_frames and self.short is None and loras.WITH_LORA not in self.name:
            self.short = built.run(*task.inputs(f"832x480x{task.error_frames}")).cpu()

    def play(self, task: Task) -> bool:
        """Takes a turn, and returns whether it could: what stops a peer does not stop the rest."""
        try:
            self.take_turn(task)
        except (BackendError, RuntimeError) as error:
            if self.name == OURS:
                raise
            reason = "out of memory" if isinstance(error, torch.OutOfMemoryError) else str(error)
            sys.stderr.write(f"{self.name}: {reason}\n")
            for size in task.sizes:
                if size not in self.timings:
                    about = {**task.about(), "contestant": self.name, "size": size}
                    emit("forward", {**about, "failed": reason})
            return False
        finally:
            release(task.device)
        return True


def emit_ratios(task: Task, ours: Contestant, peers: Sequence[Contestant]) -> None:
    """Prints ours divided by each peer, per size."""
    for peer in peers:
        for size, timing in peer.timings.items():
            mine, theirs = ours.timings[size].columns(), timing.columns()
            line = {**task.about(), **ours.own, "peer": peer.name, "size": size}
            line["ratio"] = round(mine["seconds"] / theirs["seconds"], 3)
            if theirs["peak_gib"]:
                line["peak_ratio"] = round(mine["peak_gib"] / theirs["peak_gib"], 3)
            emit("forward_ratio", line)


def emit_errors(task: Task, contestants: Sequence[Contestant]) -> None:
    """Prints the rms error of each contestant relative to our model in fp32."""
    size = f"832x480x{task.error_frames}"
    exact_model = random_dit(task.config, Precision(), AS_STORED, resolve("sdpa"), task.device)
    exact = exact_model(*task.inputs(size)).cpu()
    for one in contestants:
        if one.short is None:
            continue
        error = ((one.short - exact).square().mean() / exact.square().mean()).sqrt().item()
        line = {**task.about(), **one.own, "contestant": one.name, "size": size}
        emit("forward_error", {**line, "rms_error": float(f"{error:.3g}")})


def parse() -> argparse.Namespace:
    """Reads the command line."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("model", choices=CONFIGS)
    parser.add_argument("sizes", nargs="+", help="WIDTHxHEIGHTxFRAMES")
    formats = [name for name in format_names() if name not in (AS_STORED, "auto")]
    parser.add_argument("--format", choices=formats, default="bf16", help="of the blocks' weights")
    parser.add_argument("--attention", choices=names(), default="auto", help="ours")
    parser.add_argument("--residual", choices=("fp32", "bf16"), default="fp32", help="ours")
    parser.add_argument("--lora", action="store_true", help="measure ours with LoRAs, too")
    parser.add_argument("--stages", choices=STAGES, default="fused", help="of our blocks")
    parser.add_argument("--beside", choices=PEERS, nargs="+", default=[], help="peers to measure")
    parser.add_argument("--repeats", type=int, default=3, help="timed passes of a turn")
    parser.add_argument("--rounds", type=int, default=1, help="turns of each contestant")
    parser.add_argument("--layers", type=int, default=0, help="blocks to keep; 0: all")
    parser.add_argument("--error-frames", type=int, default=0, help="0: no error measurement")
    parser.add_argument("--device", default="cuda")
    return parser.parse_args()


@torch.inference_mode()
def run(options: argparse.Namespace) -> None:
    """Measures all contestants in turns."""
    config, stride = CONFIGS[options.model]
    full = config.num_layers
    residual = torch.float32 if options.residual == "fp32" else torch.bfloat16
    task = Task(
        model=options.model,
        config=replace(config, num_layers=min(options.layers or full, full)),
        stride=stride,
        precision=Precision(compute_dtype=torch.bfloat16, residual_dtype=residual),
        weight_format=options.format,
        device=device_called(options.device),
        sizes=tuple(options.sizes),
        repeats=options.repeats,
        error_frames=options.error_frames,
        peers=tuple(options.beside),
    )
    attention = attention_of(options.attention)
    build = partial(build_ours, task, attention, options.stages)
    own = {"residual": options.residual, "stages": options.stages}
    own["compiled"] = options.stages == "compiled"
    # Cached: with --rounds the ceilings are measured once.
    ours = Contestant(OURS, build, own, cache(partial(expectations, task, attention)))
    with_lora = Contestant(OURS + loras.WITH_LORA, partial(build, lora=True), own)
    peers = [
        Contestant(peer, partial(build_dit, peer, task.config, task.weight_format, task.device))
        for peer in task.peers
    ]
    playing = [ours, with_lora, *peers] if options.lora else [ours, *peers]
    for _ in range(options.rounds):
        playing = [one for one in playing if one.play(task)]
    emit_ratios(task, ours, [with_lora, *peers])
    if options.error_frames:
        emit_errors(task, [ours, *peers])


def main() -> None:
    """Command line."""
    try:
        run(parse())
    except (WanError, torch.OutOfMemoryError) as error:
        sys.exit(f"{Path(__file__).name}: {error}")


if __name__ == "__main__":
    main()
