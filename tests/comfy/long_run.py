"""Hundreds of prompts of every kind through one server, as a day of a busy one has them.

Used by `test_long_run.py`, and for hours by `benchmarks/soak.py`.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import torch
import websocket
from safetensors.torch import load_file
from torch import Tensor

from .client import Message, PromptRejected, RunResult
from .graphs import (
    I2V,
    T2V,
    TI2V,
    VAE_22,
    Prompt,
    experts,
    image_to_video,
    memory,
    model,
    moe_sampler,
    node,
    prompts,
    random_text,
    save,
    vae,
)
from .server import ComfyServer
from .stock import LORA, T2V_HIGH, T2V_LOW, empty_latent, ksampler_advanced, shifted, stock_model

TEXTS = ("a red ball rolls", "a blue cube falls", "rain")
STRENGTHS = (0.0, 0.5, 1.0)
SEEDS = 1000
KNOWN_SEED, KNOWN_STRENGTH = SEEDS, 0.5
"""Of prompts whose results must not change."""
WAIT_SECONDS = 600
REST = "rest"

Workflow = Callable[[int, float], Prompt]
"""From a seed and the strength of a LoRA; text and other choices follow from the seed."""

SMALL = {"width": 32, "height": 32}
LINKS = {"positive": ("positive", 0), "negative": ("negative", 0), "latent_image": ("latent", 0)}


def _decoded(prompt: Prompt, name: str) -> Prompt:
    decode = node("WanDuetVAEDecode", vae=("vae", 0), samples=("sampler", 0), tiling="auto")
    return {**prompt, "decode": decode, **save(name, image=("decode", 0))}


def _sampled(prompt: Prompt, name: str) -> Prompt:
    text = {**random_text(64, 8), **empty_latent(32, 32)}
    return {**text, **prompt, **save(name, latent=("sampler", 0))}


def _steps(seed: int, **options: Any) -> Prompt:
    return moe_sampler(**{"seed": seed, "steps": 2, "shift": 5.0, **options})


def text_to_video(seed: int, strength: float) -> Prompt:
    """From a text to frames, with a LoRA on both experts."""
    lora = {"lora_high": LORA, "lora_low": LORA, "on": True}
    strengths = {"strength_high": strength, "strength_low": strength}
    links = {"model_high": ("experts", 0), "model_low": ("experts", 1)}
    nodes = {
        **experts(),
        "lora": node("WanDuetLoraPair", **links, **lora, **strengths),
        **prompts(TEXTS[seed % len(TEXTS)]),
        **vae(),
        **image_to_video(**SMALL),
        **_steps(seed, model_high=("lora", 0), model_low=("lora", 1)),
    }
    return _decoded(nodes, "text_to_video")


def image_to_frames(seed: int, strength: float) -> Prompt:  # noqa: ARG001
    """From an image to frames."""
    nodes = {
        **experts(I2V),
        **prompts(TEXTS[seed % len(TEXTS)]),
        **vae(),
        "image": node("WanDuetTestImage", seed=seed % 3, **SMALL, count=1, channels=3),
        **image_to_video(start_image=("image", 0), **SMALL),
        **_steps(seed, cfg_high=3.0),
    }
    return _decoded(nodes, "image_to_video")


def five_b(seed: int, strength: float) -> Prompt:  # noqa: ARG001
    """The 5B model with its VAE, by UniPC."""
    nodes = {
        **model(TI2V),
        **prompts(TEXTS[seed % len(TEXTS)]),
        **vae(VAE_22),
        **image_to_video(**SMALL),
        **_steps(seed, model_high=("model", 0), model_low=None, sampler="unipc"),
    }
    return _decoded(nodes, "five_b")


def streamed(seed: int, strength: float) -> Prompt:
    """Block swap, and a LoRA by core's node on one expert."""
    lora = {"lora_name": LORA, "strength_model": strength}
    nodes = {
        **memory(blocks_to_swap=1 + seed % 2),
        **experts(memory=("memory", 0)),
        "lora": node("LoraLoaderModelOnly", model=("experts", 0), **lora),
        **_steps(seed, model_high=("lora", 0), **LINKS),
    }
    return _sampled(nodes, "streamed")


def converted(seed: int, strength: float) -> Prompt:  # noqa: ARG001
    """Weights that are converted into a file."""
    options = {"model_name": T2V[1], "precision": "int8", "memory": ("memory", 0)}
    nodes = {
        **memory(blocks_to_swap=2),
        "model": node("WanDuetTestLoadAnyway", **options),
        **ksampler_advanced(("model", 0), "sampler", noise_seed=seed, steps=2),
    }
    return _sampled(nodes, "converted")


def guided(seed: int, strength: float) -> Prompt:
    """Negative guidance and a step cache."""
    scale = {"nag_scale": 1.0 + strength, "nag_alpha": 0.25, "nag_tau": 2.5}
    window = {"threshold": 0.1, "start_percent": 0.0, "end_percent": 1.0}
    pair = {"model_high": ("experts", 0), "model_low": ("experts", 1)}
    nodes = {
        **experts(),
        "nag": node("WanDuetNAG", **pair, negative=("negative", 0), **scale),
        "cached": node("WanDuetStepCache", model=("nag", 0), method="easycache", **window),
        **_steps(seed, model_high=("cached", 0), model_low=("nag", 1), **LINKS),
    }
    return _sampled(nodes, "guided")


def scaled(seed: int, strength: float) -> Prompt:
    """A file of fp8 weights in core's sampler, with a LoRA beside the weights."""
    lora = {"lora_name": LORA, "strength_model": strength}
    file = "toy_t2v_high_noise_scaled_fp8.safetensors"
    nodes = {
        **model(file, precision="fp32"),
        "lora": node("LoraLoaderModelOnly", model=("model", 0), **lora),
        **ksampler_advanced(("lora", 0), "sampler", noise_seed=seed, steps=2),
    }
    return _sampled(nodes, "scaled")


def core(seed: int, strength: float) -> Prompt:
    """Core's own nodes: two experts, a LoRA, two samplers, text and VAE."""
    lora = {"lora_name": LORA, "strength_model": strength}
    first = {"end_at_step": 1, "return_with_leftover_noise": "enable"}
    second = {"start_at_step": 1, "add_noise": "disable", "latent_image": ("first", 0)}
    about = {"noise_seed": seed, "steps": 2}
    nodes = {
        **stock_model(T2V_HIGH, "high_file"),
        **stock_model(T2V_LOW, "low_file"),
        "lora": node("LoraLoaderModelOnly", model=("high_file", 0), **lora),
        **shifted(("lora", 0), "high", 5.0),
        **shifted(("low_file", 0), "low", 5.0),
        **random_text(4096, 8),
        **empty_latent(32, 32),
        **ksampler_advanced(("high", 0), "first", **about, **first),
        **ksampler_advanced(("low", 0), "sampler", **about, **second),
        "vae": node("VAELoader", vae_name="toy_wan_2.1_vae.safetensors"),
        "decode": node("VAEDecode", vae=("vae", 0), samples=("sampler", 0)),
    }
    return {**nodes, **save("core", image=("decode", 0))}


WORKFLOWS: dict[str, Workflow] = {
    "text_to_video": text_to_video,
    "image_to_video": image_to_frames,
    "five_b": five_b,
    "streamed": streamed,
    "converted": converted,
    "guided": guided,
    "scaled": scaled,
    "core": core,
}
"""By the name of the file that each saves."""


@dataclass(frozen=True)
class Sample:
    """What a server has after so many prompts."""

    prompts: int
    event: str
    rss_kib: int
    """Not of files."""
    files: int
    """Open."""
    threads: int
    disk_bytes: int
    """Below user/."""
    heap_kib: int = 0
    """Taken from C's allocator and not freed; counted after /free only. The rest of `rss_kib` is
    Python's objects, libraries' data, and what glibc keeps for later."""
    own_threads: int = 0
    """All but asyncio's, which starts another when it is busy; counted after /free only."""


def known_results(server: ComfyServer, workflows: Mapping[str, Workflow]) -> dict[str, Tensor]:
    """Returns what each workflow gives at the known seed."""
    return {name: _known(server, name, workflows[name]) for name in workflows}


def _known(server: ComfyServer, name: str, workflow: Workflow) -> Tensor:
    ended = server.run(workflow(KNOWN_SEED, KNOWN_STRENGTH))
    assert ended.status == "success", (name, ended.error)
    # ComfyUI does not write it again if the last prompt was the same.
    saved = load_file(server.output / f"{name}.safetensors")
    return saved["image" if "image" in saved else "samples"]


@dataclass
class LongRun:
    """Sends prompts, each with an event, and looks at the server in between."""

    server: ComfyServer
    workflows: Mapping[str, Workflow]
    expected: Mapping[str, Tensor]
    seed: int = 0
    rest_every: int = 10
    samples: list[Sample] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        self.sent = self.samples[-1].prompts if self.samples else 0

    def run(self, prompts: int, until: float = float("inf")) -> None:
        """Sends so many prompts, or as many as there is time for.

        Args:
            prompts: number.
            until: moment of `time.monotonic` at which no more are begun.
        """
        events = dict(self._events())
        names, weights = zip(*((name, weight) for name, (weight, _) in events.items()), strict=True)
        for _ in range(prompts):
            if time.monotonic() > until:
                break
            (event,) = self.random.choices(names, weights)
            events[event][1]()
            self.counts[event] = self.counts.get(event, 0) + 1
            self.sent += 1
            self._look(event)
            if self.sent % self.rest_every == 0:
                self._rest()

    def _events(self) -> Iterator[tuple[str, tuple[float, Callable[[], None]]]]:
        yield "run", (50, self._run)
        yield "interrupted", (12, self._interrupt)
        yield "failing", (8, self._fail)
        yield "refused", (5, self._refuse)
        yield "two clients", (8, self._two_clients)
        yield "gone client", (7, self._gone_client)
        yield "known", (10, self._repeat)

    def _prompt(self) -> Prompt:
        workflow = self.workflows[self.random.choice(list(self.workflows))]
        return workflow(self.random.randrange(SEEDS), self.random.choice(STRENGTHS))

    def _run(self) -> None:
        _expect(self.server.run(self._prompt()), "success")

    def _interrupt(self) -> None:
        left = self.random.randrange(1, 12)

        def count(_: Message) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                self.server.interrupt()

        _expect(self.server.run(self._prompt(), on_message=count), "interrupted", "success")

    def _fail(self) -> None:
        prompt = self._prompt()
        (sampler,) = [made for key, made in prompt.items() if key == "sampler"]
        name = next(key for key in ("model_high", "model") if key in sampler["inputs"])
        link = tuple(sampler["inputs"][name])
        prompt["broken"] = node("WanDuetTestOutOfMemory", model=link, times=1000)
        sampler["inputs"][name] = ["broken", 0]
        _expect(self.server.run(prompt), "error")

    def _refuse(self) -> None:
        prompt = self._prompt()
        prompt["sampler"]["inputs"]["steps"] = "many"
        try:
            self.server.queue(prompt)
        except PromptRejected:
            return
        raise AssertionError("A prompt of many steps was queued.")

    def _two_clients(self) -> None:
        other = self.server.queue(self._prompt(), "another")
        _expect(self.server.run(self._prompt()), "success")
        self._wait(other)

    def _gone_client(self) -> None:
        address = f"ws://{self.server.address}/ws?clientId=gone{self.sent}"
        socket = websocket.create_connection(address, timeout=WAIT_SECONDS)
        prompt_id = self.server.queue(self._prompt(), f"gone{self.sent}")
        socket.close()
        self._wait(prompt_id)

    def _repeat(self) -> None:
        self._compare(self.random.choice(list(self.workflows)))

    def compare_all(self) -> None:
        """Notes which workflows give something else than they should."""
        for name in self.workflows:
            self._compare(name)

    def _compare(self, name: str) -> None:
        if not torch.equal(_known(self.server, name, self.workflows[name]), self.expected[name]):
            self.differences.append(f"{name} after {self.sent} prompts")

    def _wait(self, prompt_id: str) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while not self.server.history(prompt_id):
            if time.monotonic() > deadline:
                raise TimeoutError(f"No end of {prompt_id}.")
            time.sleep(0.02)

    def _rest(self) -> None:
        """Has the server give back what it can, so that what stays is seen."""
        self.server.free()
        _expect(self.server.run({"look": node("WanDuetTestWatched", name="gone")}), "success")
        _expect(self.server.run({"look": node("WanDuetTestHeap", name="heap")}), "success")
        heap = (self.server.output / "heap.jsonl").read_text().splitlines()[-1]
        used, threads = json.loads(heap)
        sample = look(self.server, self.sent, REST)
        self.samples.append(replace(sample, heap_kib=used >> 10, own_threads=threads))

    def _look(self, event: str) -> None:
        self.samples.append(look(self.server, self.sent, event))


def look(server: ComfyServer, prompts: int, event: str) -> Sample:
    """Returns what a server has now."""
    process = Path("/proc", str(server.pid))
    status = dict(
        line.split(":", 1) for line in (process / "status").read_text().splitlines() if ":" in line
    )
    files = [file for file in (server.base / "user").rglob("*") if file.is_file()]
    return Sample(
        prompts,
        event,
        int(status["RssAnon"].split()[0]),
        len(list((process / "fd").iterdir())),
        int(status["Threads"]),
        sum(file.stat().st_size for file in files),
    )


def _expect(ended: RunResult, *statuses: str) -> None:
    assert ended.status in statuses, (ended.status, ended.error)
