"""One forward pass of a transformer with random weights at full size: time, memory, error.

    python benchmarks/forward.py a14b 832x480x81 1280x720x81 --layers 10 --beside comfyui

Contestants are processes of their own that take turns pass by pass, see turns.py: ours, with LoRAs
if they are asked for and with every kind of `--stages`, the peers, and with --before another
checkout of this repository. Weights and inputs are the same for all. Clock, power and temperature,
printed with every line, are those of all turns.

To compare with ComfyUI set COMFYUI_PATH to its source tree and install its requirements into this
Python (torchvision among them). --format fp8 lets ComfyUI use its own fp8 matmuls, "fp8 storage" is
what published fp8 files ask for: fp8 weights, 16-bit matmuls. All models are in memory at once: on
a smaller card `--layers N` measures N of the blocks: nearly the ratios of the whole, but the times
of the slice. `toy 64x64x5 --device cpu` shows in seconds whether all is set up.

Prints JSON lines; `>> benchmarks/results/forward.jsonl` keeps them for report.py. Per contestant
and size: the seconds of the first pass, which compiles kernels, median seconds of the others and
peak memory above the weights; of ours also the floor, see floors.py, and the ceilings that it
follows from. Then ratios to the others, with the standard error of the turns' ratios, and with
--error-frames the rms error relative to fp32 on a shorter video.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
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
from benchmarks.peers import PEERS, build_dit, random_value
from benchmarks.timing import device_called
from benchmarks.turns import (
    Answer,
    Contestant,
    Process,
    processes,
    ratios,
    serve,
    take_turns,
    timed,
)
from wan_model.attention import AttentionFn, copies_of, names, resolve
from wan_model.attention.registry import Selected
from wan_model.config import DiTConfig, Precision
from wan_model.dit import BlockRunner, WanDiT, run_in_order
from wan_model.dit.activation_memory import StageKind, activation_bytes
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

STAGES: dict[str, StageKind] = {"fused": "fused", "compiled": "compiled", "plain": "own"}
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

    def latent(self, size: str) -> LatentSize:
        """Returns latent frames, height and width of WIDTHxHEIGHTxFRAMES."""
        width, height, frames = (int(part) for part in size.split("x"))
        return latent_size(width, height, frames, self.stride)

    def estimate_bytes(self, size: str, attention: AttentionFn, stages: str) -> int:
        """Returns what our planner reckons with beside the weights, with a kind of `STAGES`."""
        latent, copies = astuple(self.latent(size)), copies_of(attention)
        kind = STAGES[stages] if self.device.type == "cuda" else "own"
        return activation_bytes(
            self.config, self.precision, 1, *latent, attention_copies=copies, stages=kind
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


def serve_ours(task: Task, attention: AttentionFn) -> tuple[Answer, Any]:
    """Builds our transformer, for passes with and without LoRAs, with stages of every kind."""
    model = random_dit(task.config, task.precision, task.weight_format, attention, task.device)
    runners = cache(partial(runner_of, precision=task.precision))
    worn = loras.Worn(model, task.device)

    def answer(request: Answer) -> Answer:
        runner = runners(request["stages"])
        worn.set(request["lora"])

        def predict(latent: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
            return model.velocity(latent, timestep, text, None, runner)

        return one_pass(task, request, predict)

    return {"attention": label_of(attention)}, answer


def serve_peer(task: Task, peer: Any) -> tuple[Answer, Any]:
    """Builds a peer's transformer."""
    built = build_dit(peer, task.config, task.weight_format, task.device)
    about = {"label": built.label, "attention": built.attention}
    return about, lambda request: one_pass(task, request, built.run)


@torch.inference_mode()
def one_pass(task: Task, request: Answer, run: Any) -> Answer:
    """Makes a pass of the request's size, and keeps what it predicts where that is asked for."""
    inputs = task.inputs(request["size"])
    if "keep" in request:
        torch.save(run(*inputs).cpu(), request["keep"])
        return {"kept": request["keep"]}
    return timed(partial(run, *inputs), task.device)


def expectations(task: Task, attention: AttentionFn, stages: str, size: str) -> dict[str, float]:
    """Returns our memory estimate and our floor; prints the ceilings that it follows from."""
    tokens = task.latent(size).tokens
    rates = forward_rates(task.config, tokens, attention, task.device)
    emit("ceilings", {"model": task.model, "size": size, "attention": label_of(attention), **rates})
    work = forward_work(task.config, tokens, task.weight_format)
    estimate = {"estimate_gib": round(task.estimate_bytes(size, attention, stages) / 2**30, 3)}
    return estimate | forward_floor(work, task.weight_format, rates)


def emit_size(
    task: Task, contestants: Sequence[Contestant], size: str, expected: dict[str, float]
) -> None:
    """Prints what was measured at a size: a line for each contestant, and ours by the others."""
    ours = contestants[0]
    for one in contestants:
        about = {**task.about(), "contestant": one.name, **one.own, "size": size}
        if size not in one.timings:
            emit("forward", {**about, "failed": one.failed})
            continue
        columns = one.timings[size].columns() | (expected if one is ours else {})
        emit("forward", {**about, **columns})
    for one in contestants[1:]:
        if size in one.timings:
            line = {**task.about(), **ours.own, "peer": one.name, "size": size}
            emit("forward_ratio", line | ratios(ours.timings[size], one.timings[size]))


def emit_errors(task: Task, contestants: Sequence[Contestant], size: str, folder: Path) -> None:
    """Prints the rms error of each contestant relative to our model in fp32; ends contestants."""
    kept = [one for one in contestants if one.ask({"size": size, "keep": str(folder / one.name)})]
    for one in contestants:
        one.process.end()
    exact_model = random_dit(task.config, Precision(), AS_STORED, resolve("sdpa"), task.device)
    exact = exact_model(*task.inputs(size)).cpu()
    for one in kept:
        short = torch.load(folder / one.name)
        error = ((short - exact).square().mean() / exact.square().mean()).sqrt().item()
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
    parser.add_argument(
        "--stages", choices=STAGES, nargs="+", default=["fused"], help="of our blocks"
    )
    parser.add_argument("--beside", choices=PEERS, nargs="+", default=[], help="peers to measure")
    parser.add_argument("--before", type=Path, help="another checkout of this repository")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each that are timed")
    parser.add_argument("--layers", type=int, default=0, help="blocks to keep; 0: all")
    parser.add_argument("--error-frames", type=int, default=0, help="0: no error measurement")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--serve", choices=(OURS, *PEERS), help=argparse.SUPPRESS)
    return parser.parse_args()


def task_of(options: argparse.Namespace) -> Task:
    """Returns what the command line asks for."""
    config, stride = CONFIGS[options.model]
    full = config.num_layers
    residual = torch.float32 if options.residual == "fp32" else torch.bfloat16
    return Task(
        model=options.model,
        config=replace(config, num_layers=min(options.layers or full, full)),
        stride=stride,
        precision=Precision(compute_dtype=torch.bfloat16, residual_dtype=residual),
        weight_format=options.format,
        device=device_called(options.device),
    )


def commands(options: argparse.Namespace) -> list[list[str]]:
    """Returns what starts ours, the peers and the checkout of before."""
    given = [options.model, *options.sizes]
    for name in ("format", "attention", "residual", "layers", "device"):
        given += [f"--{name}", str(getattr(options, name))]
    scripts = [(Path(__file__), who) for who in (OURS, *options.beside)]
    if options.before:
        scripts.append((options.before / "benchmarks" / Path(__file__).name, OURS))
    return [[str(script), *given, "--serve", who] for script, who in scripts]


def line_up(
    options: argparse.Namespace, started: Sequence[Process]
) -> tuple[list[Contestant], list[Contestant]]:
    """Returns ours, of which all are in the first process, and the others; waits until they are.

    Raises:
        BackendError: if ours cannot be built.
    """

    def ours(name: str, process: Process, stages: str, *, lora: bool = False) -> Contestant:
        own = {"label": name, "residual": options.residual}
        own |= {"stages": stages, "compiled": stages == "compiled"}
        return Contestant(name, process, {"stages": stages, "lora": lora}, own)

    first, *more = options.stages
    mine = [ours(OURS, started[0], first)]
    mine += [ours(f"{OURS}, {stages}", started[0], stages) for stages in more]
    mine += [ours(OURS + loras.WITH_LORA, started[0], first, lora=True)] * options.lora
    beside = [Contestant(*pair) for pair in zip(options.beside, started[1:], strict=False)]
    beside += [ours("before", started[-1], first)] * (options.before is not None)
    about = started[0].answer()
    for one in mine:
        one.own |= about
    for one in beside:
        one.begin()
    return mine, beside


def play(options: argparse.Namespace, task: Task, folder: Path) -> None:
    """Measures all contestants in turns."""
    with processes(commands(options)) as started:
        mine, beside = line_up(options, started)
        ours, contestants = mine[0], [*mine, *beside]
        attention = resolve(ours.own["attention"])
        for size in options.sizes:
            take_turns(contestants, size, {"size": size}, options.repeats)
            if size not in ours.timings:
                raise BackendError(ours.failed)
            expected = expectations(task, attention, ours.own["stages"], size)
            emit_size(task, contestants, size, expected)
        if options.error_frames:
            short = f"832x480x{options.error_frames}"
            emit_errors(task, [ours, *beside], short, folder)


@torch.inference_mode()
def run(options: argparse.Namespace) -> None:
    """Serves as a contestant, or has all of them measured."""
    task = task_of(options)
    if options.serve == OURS:
        serve(lambda: serve_ours(task, attention_of(options.attention)))
    elif options.serve:
        serve(partial(serve_peer, task, options.serve))
    else:
        if task.device.type == "cuda":
            check_room(options, task)
        with tempfile.TemporaryDirectory() as folder:
            play(options, task, Path(folder))


def check_room(options: argparse.Namespace, task: Task) -> None:
    """Refuses what does not fit into the GPU's memory."""
    free_bytes = torch.cuda.mem_get_info(task.device)[0]
    sdpa = resolve("sdpa")
    largest = max(task.estimate_bytes(size, sdpa, options.stages[0]) for size in options.sizes)
    count = len(commands(options))
    check_fit(task.config, task.weight_format, largest, free_bytes, count)


def main() -> None:
    """Command line."""
    try:
        run(parse())
    except (WanError, torch.OutOfMemoryError) as error:
        sys.exit(f"{Path(__file__).name}: {error}")


if __name__ == "__main__":
    main()
