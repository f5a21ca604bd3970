"""A whole prompt through a real ComfyUI with block swap: seconds, card memory, process RAM.

    COMFYUI_PATH=... python benchmarks/server.py --folder /fast/disk --beside core
    COMFYUI_PATH=... python benchmarks/server.py --folder build/toy --beside core --toy  # on a CPU

Two experts with random fp8 weights (13.3 GiB each, written to the folder once), 4 steps (2 + 2),
cfg 1, euler. Smaller cards are emulated by memory that this process holds. On every card ours, and
then core's own loaders and samplers with the same files, get a server of their own, which runs
three prompts: the first with the files dropped from the system's cache, a second like it, and one
of twice the steps, by which it is known what a step takes. Core dequantizes the weights before
matmuls; ours multiplies them as they are where the GPU can, unless `--precision bf16` is given.

Prints JSON lines (report.py makes tables of them): one per prompt, "server", and one per card,
"server_beyond", with the seconds that prompts take beyond their steps. Private RAM is what is not
backed by files, pinned memory included; "none yet" is the server before its first prompt.
"""

import argparse
import gc
import json
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from websocket import WebSocketException

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.lines import Line, emit
from benchmarks.loras import RANK, WITH_LORA, write
from benchmarks.watch import (
    Watch,
    card_free_bytes,
    card_of,
    disk_rate,
    drop_from_cache,
    has_card,
    watching,
)
from tests.comfy.client import PromptRejected
from tests.comfy.graphs import (
    Prompt,
    experts,
    memory,
    moe_sampler,
    node,
    random_text,
    save,
    stock_model,
)
from tests.comfy.server import REPOSITORY, ComfyServer, ServerError, install_pack
from tests.comfy.stock import empty_latent, ksampler_advanced, shifted

OURS, CORE = "wan-duet", "core"

STEPS = 4
PROMPTS = {"first, cold": STEPS, "second": STEPS, "twice the steps": 2 * STEPS}
SHIFT = 5.0
"""With it, half of the steps belong to either expert, be they 4 or 8."""

PROMPT_SECONDS = 200
LOG_CHARACTERS = 8000

LORA = f"rank_{RANK}_random.safetensors"
NAMES = ("high_noise_14B_random.safetensors", "low_noise_14B_random.safetensors")
TEXT_DIM = 4096
"""The only one that core's Wan model knows."""


@dataclass(frozen=True)
class Workload:
    """What is sampled."""

    files: tuple[Path, Path]
    lora: Path
    """For both experts."""
    size: str
    """WIDTHxHEIGHTxFRAMES."""

    def around(self, sampler: Prompt) -> Prompt:
        """Returns a workflow: text and an empty latent for a sampler, whose result is saved."""
        width, height, frames = (int(part) for part in self.size.split("x"))
        return {
            **random_text(TEXT_DIM),
            **empty_latent(width, height, frames),
            **sampler,
            **save("out", latent=("sampler", 0)),
        }


@dataclass(frozen=True)
class Contestant:
    """Who runs the prompts."""

    name: str
    sampler: Callable[[int, int], Prompt]
    """From seed and number of steps to loaders and samplers."""
    own: Line = field(default_factory=dict)
    """Options that only it has."""


def ours(files: Sequence[Path], limits: Line, compiled: bool, **loading: str) -> Contestant:
    """Returns our loader on the weights engine, and our sampler."""

    def sampler(seed: int, steps: int) -> Prompt:
        names = (files[0].name, files[1].name)
        kinds = ("high", "low")
        compilers = {
            kind: node("WanDuetCompile", model=("experts", index), mode="default")
            for index, kind in enumerate(kinds if compiled else ())
        }
        source = [(kind, 0) if compiled else ("experts", i) for i, kind in enumerate(kinds)]
        return {
            **experts(names, **loading, memory=("memory", 0)),
            **memory(**limits),
            **compilers,
            **moe_sampler(
                model_high=source[0],
                model_low=source[1],
                positive=("positive", 0),
                negative=("negative", 0),
                latent_image=("latent", 0),
                seed=seed,
                steps=steps,
                shift=SHIFT,
            ),
        }

    return Contestant(OURS, sampler, {**loading, "compiled": compiled})


def core(files: Sequence[Path]) -> Contestant:
    """Returns what people have without us: two of core's loaders and samplers, half the steps each.

    Its "simple" schedule has other sigmas than ours, but as many.
    """

    def sampler(seed: int, steps: int) -> Prompt:
        about = {"noise_seed": seed, "steps": steps}
        first = {"end_at_step": steps // 2, "return_with_leftover_noise": "enable"}
        second = {"start_at_step": steps // 2, "add_noise": "disable"}
        return {
            **stock_model(files[0].name, "high_file"),
            **stock_model(files[1].name, "low_file"),
            **shifted(("high_file", 0), "high", SHIFT),
            **shifted(("low_file", 0), "low", SHIFT),
            **ksampler_advanced(("high", 0), "first", **about, **first),
            **ksampler_advanced(
                ("low", 0), "sampler", latent_image=("first", 0), **about, **second
            ),
        }

    return Contestant(CORE, sampler)


def with_lora(one: Contestant, lora: Path) -> Contestant:
    """Returns a contestant with a LoRA on what its loaders give."""

    def sampler(seed: int, steps: int) -> Prompt:
        prompt, patched = one.sampler(seed, steps), {}
        loaders = [name for name, made in prompt.items() if "Loader" in made["class_type"]]
        for made in prompt.values():
            for key, link in made["inputs"].items():
                if isinstance(link, list) and link[0] in loaders:
                    name = f"{link[0]} {link[1]} with LoRA"
                    about = {"lora_name": lora.name, "strength_model": 1.0}
                    patched[name] = node("LoraLoaderModelOnly", model=tuple(link), **about)
                    made["inputs"][key] = [name, 0]
        return prompt | patched

    return Contestant(one.name + WITH_LORA, sampler, one.own)


class Server(ComfyServer):
    """ComfyUI on the device that computes."""

    @property
    def version(self) -> str:
        """Of ComfyUI."""
        return self.get("/system_stats")["system"]["comfyui_version"]

    def _command(self) -> list[str]:
        command = super()._command()
        return [part for part in command if part != "--cpu"] if has_card() else command


def a14b(folder: Path, size: str) -> Workload:
    """Writes two experts, unless they are there from an earlier run."""
    from benchmarks.block_swap import A14B, PRECISION, random_state
    from wan_model.attention import resolve
    from wan_model.dit import WanDiT

    first, second = (folder / name for name in NAMES)
    if not first.exists():
        save_file(random_state(A14B), first)
    if not second.exists():
        shutil.copyfile(first, second)
    gc.collect()
    torch.cuda.empty_cache()
    with torch.device("meta"):
        model = WanDiT(A14B, precision=PRECISION, attention=resolve("sdpa"))
    write(folder / LORA, model)
    return Workload((first, second), folder / LORA, size)


def toy(folder: Path) -> Workload:
    """Writes toy checkpoints."""
    from tests.toy.make_checkpoints import make_dit, scale_to_fp8
    from wan_model.loading import load_dit

    first, second = (folder / f"toy_{name}" for name in NAMES)
    for path in (first, second):
        save_file(scale_to_fp8(make_dit("t2v", path.stem, text_dim=TEXT_DIM), "scaled_fp8"), path)
    write(folder / f"toy_{LORA}", load_dit(first))
    return Workload((first, second), folder / f"toy_{LORA}", "64x48x5")


@contextmanager
def server(
    files: Sequence[Path], loras: Sequence[Path] = (), *, with_pack: bool = True
) -> Iterator[Server]:
    """Runs a ComfyUI that has these experts and LoRAs."""
    with tempfile.TemporaryDirectory() as name:
        base, frontend = Path(name), Path(name, "frontend")
        for kind, linked in (("diffusion_models", files), ("loras", loras)):
            models = base / "models" / kind
            models.mkdir(parents=True)
            for file in linked:
                (models / file.name).symlink_to(file.resolve())
        nodes = base / "custom_nodes"
        nodes.mkdir()
        if with_pack:
            install_pack(nodes)
        shutil.copy2(REPOSITORY / "tests" / "comfy" / "helper_nodes.py", nodes)
        # ComfyUI insists on a graph editor.
        frontend.mkdir()
        (frontend / "index.html").write_text("<html></html>")
        arguments = ("--front-end-root", str(frontend), "--disable-metadata")
        comfyui = Path(os.environ["COMFYUI_PATH"]).resolve()
        with Server(comfyui, base, arguments=arguments) as running:
            assert isinstance(running, Server)
            try:
                yield running
            finally:
                sys.stderr.write(running.log()[-LOG_CHARACTERS:])


def measure(workload: Workload, one: Contestant, about: Line, seconds: list[float]) -> None:
    """Runs the prompts in a server of their own, prints a line for each, adds their seconds.

    Raises:
        ServerError: if a prompt failed.
    """
    free_bytes = card_free_bytes()
    with (
        server(workload.files, [workload.lora], with_pack=one.name.startswith(OURS)) as running,
        watching(Watch(running.pid, free_bytes)) as watch,
    ):
        if one.name.startswith(CORE):
            about["label"] = one.name.replace(CORE, f"ComfyUI {running.version}")
        emit("server", {**about, "prompt": "none yet", **watch.take()})
        drop_from_cache(workload.files)
        for number, (name, steps) in enumerate(PROMPTS.items()):
            started = time.perf_counter()
            prompt = workload.around(one.sampler(number, steps))
            result = running.run(prompt, PROMPT_SECONDS)
            elapsed = time.perf_counter() - started
            if result.status != "success":
                reason = (result.error or {}).get("exception_message", result.status)
                raise ServerError(str(reason))
            seconds.append(elapsed)
            line = {**about, "prompt": name, "steps": steps, "seconds": round(elapsed, 2)}
            emit("server", {**line, **watch.take(), "shown": result.texts("sampler")[-1:]})


def beyond(seconds: Sequence[float]) -> dict[str, float]:
    """Returns what a step takes, and what the two short prompts took beyond their steps."""
    first, second, longer = seconds
    step = (longer - second) / STEPS
    return {
        "step_seconds": round(step, 3),
        "first_beyond_seconds": round(first - STEPS * step, 2),
        "second_beyond_seconds": round(second - STEPS * step, 2),
    }


def run_card(workload: Workload, playing: Sequence[Contestant], about: Line, disk: Line) -> None:
    """Measures all contestants on one card; one that fails does not stop the others."""
    with card_of(about["card_gib"]):
        for one in playing:
            own, seconds = {"contestant": one.name, **one.own, **about}, []
            try:
                measure(workload, one, own, seconds)
            except (OSError, ServerError, PromptRejected, WebSocketException) as error:
                traceback.print_exc()
                name = [*PROMPTS, "end"][len(seconds)]
                emit("server", {**own, "prompt": name, "failed": str(error).partition("\n")[0]})
            else:
                emit("server_beyond", {**own, **beyond(seconds), **disk})


def main() -> None:
    """Command line."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--folder", type=Path, required=True, help="for 26.6 GiB, which are kept")
    parser.add_argument("--size", default="832x480x81", help="WIDTHxHEIGHTxFRAMES")
    parser.add_argument("--cards", nargs="*", type=float, default=[24, 8], help="GiB; 0: as it is")
    parser.add_argument(
        "--limits", type=json.loads, default={}, help="inputs of 'Wan 2.2 VRAM & Block Swap'"
    )
    parser.add_argument("--precision", default="auto", help="input of our loader")
    parser.add_argument("--attention", default="auto", help="input of our loader")
    parser.add_argument("--compile", action="store_true", help="ours, with 'Wan 2.2 Torch Compile'")
    parser.add_argument("--beside", choices=[CORE], help="whom to measure after ours")
    parser.add_argument("--lora", action="store_true", help="measure all with LoRAs, too")
    parser.add_argument("--toy", action="store_true", help="toy files, on one card as it is")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    workload = toy(options.folder) if options.toy else a14b(options.folder, options.size)
    loading = {"precision": options.precision, "attention": options.attention}
    playing = [ours(workload.files, options.limits, options.compile, **loading)]
    if options.beside == CORE:
        playing.append(core(workload.files))
    if options.lora:
        playing += [with_lora(one, workload.lora) for one in playing]
    rate, nbytes = disk_rate(workload.files[0]), sum(f.stat().st_size for f in workload.files)
    disk = {"disk_gb_s": round(rate / 1e9, 2), "disk_seconds": round(nbytes / rate, 2)}
    about = {"size": workload.size, "limits": json.dumps(options.limits)}
    for card_gib in [0.0] if options.toy else options.cards:
        run_card(workload, playing, {**about, "card_gib": card_gib}, disk)


if __name__ == "__main__":
    main()
