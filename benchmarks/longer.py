"""Motion and long videos with the tiny Wan2.2, through a real ComfyUI: speed, colour, seams.

    COMFYUI_PATH=... python benchmarks/longer.py motion          # motion_amplitude
    COMFYUI_PATH=... python benchmarks/longer.py motion --fast   # with the 4-step LoRAs
    COMFYUI_PATH=... python benchmarks/longer.py negative        # at cfg 1, with and without NAG
    COMFYUI_PATH=... python benchmarks/longer.py clips           # continued, and naively joined
    COMFYUI_PATH=... python benchmarks/longer.py windows loops --save sheets

Prints JSON lines, which `| python benchmarks/report.py --show -` makes tables of. A detector
follows the one object of each video. At a seam it measures how far the step over it is from the
steps around it (px of 128), how fast the object is in the four frames after it compared with the
four before, and by how many of 255 levels the background changes. Where there is no seam to name,
as in windows, the largest of all frames counts, and the second half's speed.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from statistics import mean, median

from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.lines import emit
from benchmarks.seams import Seam, Track, background_of
from tests.comfy.graphs import Prompt, experts, image_to_video, moe_sampler, node
from tests.comfy.server import ComfyServer, install_pack
from tools.contact_sheet import contact_sheet, frame_grid
from tools.demo import comfyui_folder
from tools.tiny_score import Score, read_video, score
from tools.tiny_score.quality import first_frames
from tools.train_tiny import scenes

FRAMES, WINDOW, LONG = 17, 17, 33
FAST = "fast"
AMPLITUDES = (1.0, 1.15, 1.3, 1.5)
MOTIONS = ("right", "left", "up", "down", "orbit", "down right")
JOIN = {"blend": "cut", "match_colours": False, "overlap": 0, "loop": False, "fps": 16.0}


def chosen(count: int) -> list[scenes.Prompt]:
    """Returns scoring prompts, one of each motion."""
    by_motion = {
        motion: [p for p in scenes.score_prompts() if p.motion == motion] for motion in MOTIONS
    }
    return [by_motion[motion][0] for motion in MOTIONS[:count]]


def base(kind: str, prompt: str, negative: str = "") -> Prompt:
    """Loaders, and the prompt's embeddings: ("text", 0) and ("text", 1)."""
    high, low = (f"wan22-tiny-{kind}-{name}-noise.safetensors" for name in ("high", "low"))
    text = {"clip": ("clip", 0), "positive": prompt, "negative": negative}
    return {
        **experts((high, low)),
        "vae": node(
            "WanDuetVAELoader", vae_name="wan22-tiny-wan21-vae.safetensors", precision="fp32"
        ),
        "clip": node("WanDuetTextEncoderLoader", text_encoder_name="wan22-tiny-umt5.safetensors"),
        "text": node("WanDuetTextEncode", **text),
    }


def fast(kind: str) -> Prompt:
    """The experts with their 4-step LoRAs: (FAST, 0) and (FAST, 1)."""
    high, low = (
        f"wan22-tiny-{kind}-lightning-{name}-noise.safetensors" for name in ("high", "low")
    )
    links = {"model_high": ("experts", 0), "model_low": ("experts", 1)}
    strengths = {"strength_high": 1.0, "strength_low": 1.0, "on": True}
    return {FAST: node("WanDuetLoraPair", **links, lora_high=high, lora_low=low, **strengths)}


def clip(name: str, steps: int, seed: int, models: str = "experts", **size: object) -> Prompt:
    """One clip: its latent is (name, 0)."""
    options = {"width": 128, "height": 128, "length": FRAMES, **size}
    links = {"positive": (f"{name}_size", 0), "negative": (f"{name}_size", 1)}
    solver = "unipc" if models in ("experts", "windows") else "auto"
    sampler = {"steps": steps, "seed": seed, "sampler": solver, "shift": 0.0, "cfg_high": 0.0}
    return {
        f"{name}_size": image_to_video(**options)["size"],
        **moe_sampler(
            name,
            **links,
            latent_image=(f"{name}_size", 2),
            **sampler,
            cfg_low=0.0,
            model_high=(models, 0),
            model_low=(models, 1),
        ),
    }


def video(name: str, *clips: str, **options: object) -> Prompt:
    """Writes one video of clips: output node `name`."""
    links = {f"clip_{number}": (each, 0) for number, each in enumerate(clips, 1)}
    join = {"vae": ("vae", 0), **JOIN, **options, **links}
    save = {"video": (f"{name}_join", 0), "filename_prefix": name, "format": "auto"}
    return {
        f"{name}_join": node("WanDuetJoinClips", **join),
        name: node("SaveVideo", **save, codec="auto"),
    }


def windows(**options: object) -> Prompt:
    """Context windows on both experts: ("windows", 0) and ("windows", 1)."""
    defaults = {
        "window_length": WINDOW,
        "window_overlap": 8,
        "window_schedule": "uniform",
        "free_noise": True,
        "loop": False,
        "keep_image": True,
    }
    links = {"model_high": ("experts", 0), "model_low": ("experts", 1)}
    return {"windows": node("WanDuetContextWindows", **links, **{**defaults, **options})}


class Bench:
    """A server, and what is made with it."""

    def __init__(self, server: ComfyServer, options: argparse.Namespace, folder: Path) -> None:
        self.server, self.options, self.folder = server, options, folder
        self.made: dict[str, list[tuple[str, Tensor]]] = {}

    def image(self, prompt: scenes.Prompt) -> str:
        """Uploads the first frame of a scene."""
        path = self.folder / f"{prompt.motion}.png"
        frame_grid(first_frames([prompt])[0][:, None], columns=1).save(path)
        return self.server.upload_image(path)

    def run(self, prompt: Prompt, text: str) -> dict[str, Track]:
        """Runs a graph; returns the tracks of its videos by the nodes that saved them."""
        result = self.server.run(prompt, timeout=600)
        if result.error:
            raise SystemExit(f"longer: {result.error['exception_message']}")
        tracks = {}
        for name, output in result.outputs.items():
            if "images" in output:
                frames = read_video(self.server.output_path(output["images"][0]))
                self.made.setdefault(name, []).append((text, frames))
                tracks[name] = Track.of(frames)
        return tracks

    def report(self, what: str, found: dict[str, list[Seam]], frames: int) -> None:
        """Prints one line for each way."""
        for way, seams in found.items():
            emit(
                "seams",
                {
                    "what": what,
                    "way": way.replace("_", " "),
                    "frames": frames,
                    "videos": len(seams),
                    "steps": self.options.steps,
                    "step_px": median(s.step_px for s in seams),
                    "speed_ratio": median(s.speed_ratio for s in seams),
                    "colour_levels": median(s.colour_levels for s in seams),
                },
            )

    def sheets(self, folder: Path) -> None:
        """Writes every video as a sheet of its frames."""
        folder.mkdir(parents=True, exist_ok=True)
        for way, videos in self.made.items():
            for number, (text, frames) in enumerate(videos):
                sheet = contact_sheet(frames, f"{way}: {text}", columns=9)
                sheet.save(folder / f"{way}-{number}.png")


def motion(bench: Bench) -> None:
    """Speed and colour of image to video by motion_amplitude."""
    steps, models = (0, FAST) if bench.options.fast else (bench.options.steps, "experts")
    found: dict[float, list[Track]] = {amplitude: [] for amplitude in AMPLITUDES}
    for prompt in chosen(bench.options.prompts):
        graph = base("i2v", prompt.text)
        graph |= {"image": node("LoadImage", image=bench.image(prompt)), **fast("i2v")}
        for amplitude in AMPLITUDES:
            name = f"motion_{round(100 * amplitude)}"
            more = {"start_image": ("image", 0), "motion_amplitude": amplitude}
            graph |= clip(f"{name}_clip", steps, 0, models, **more)
            graph |= video(name, f"{name}_clip")
        tracks = bench.run(graph, prompt.text)
        for amplitude in AMPLITUDES:
            found[amplitude].append(tracks[f"motion_{round(100 * amplitude)}"])
    for amplitude, tracks in found.items():
        drift = [float((t.level[-1] - t.level[0]).abs().mean()) for t in tracks]
        speed = mean(float(t.speeds.nanmean()) for t in tracks)
        values = {"videos": len(tracks), "steps": steps or 4, "speed_px": speed}
        emit("motion", {"amplitude": f"{amplitude:g}", **values, "drift_levels": mean(drift)})


def negative(bench: Bench) -> None:
    """Whether a negative prompt that names a clip's background changes it, in 4 steps at cfg 1.

    A prompt of the toy has to name the object's colour; its background it may leave open.
    """
    found: dict[str, list[tuple[bool, Score]]] = {}
    pair = {"model_high": (FAST, 0), "model_low": (FAST, 1), "negative": ("text", 1)}
    nag = {"nag": node("WanDuetNAG", **pair, nag_scale=11.0, nag_alpha=0.25, nag_tau=2.5)}
    for prompt, seed in product(chosen(bench.options.prompts), range(bench.options.seeds)):
        plain = base("t2v", prompt.text) | fast("t2v") | clip("one", 0, seed, FAST)
        bench.run(plain | video("first", "one"), prompt.text)
        shown = background_of(bench.made["first"][-1][1])
        graph = plain | nag | clip("guided", 0, seed, "nag")
        graph |= video("without_NAG", "one") | video("with_NAG", "guided")
        other = next(name for name in scenes.BACKGROUND_COLOURS if name != shown)
        unwanted = {"its background": f"{prompt.text}, {shown} background"}
        unwanted |= {"another background": f"{prompt.text}, {other} background"}
        for named, text in unwanted.items():
            bench.run(graph | {"text": base("t2v", prompt.text, text)["text"]}, prompt.text)
            for way in ("without NAG", "with NAG"):
                made = bench.made[way.replace(" ", "_")][-1][1]
                same = background_of(made) == shown
                found.setdefault(f"{named}, {way}", []).append((same, score(made, prompt)))
    for way, results in found.items():
        values = {"videos": len(results), "same_background": mean(same for same, _ in results)}
        emit("negative", {"way": way, **values, "all_right": mean(s.ok for _, s in results)})


def clips(bench: Bench) -> None:
    """Two clips of image to video: continued, and naively joined."""
    found: dict[str, list[Seam]] = {}
    for prompt in chosen(bench.options.prompts):
        steps, image = bench.options.steps, ("image", 0)
        last = {"image": ("frames", 0), "batch_index": FRAMES - 1, "length": 1}
        graph = base("i2v", prompt.text) | {
            "image": node("LoadImage", image=bench.image(prompt)),
            "frames": node("WanDuetVAEDecode", vae=("vae", 0), samples=("one", 0), tiling="off"),
            "last": node("ImageFromBatch", **last),
            **clip("one", steps, 0, start_image=image),
            **clip("again", steps, 1, start_image=("last", 0)),
            **clip("next", steps, 1, previous_latent=("one", 0)),
            **video("naive_concatenation", "one", "again"),
            **video("continued", "one", "next"),
            **video("continued,_colours_matched", "one", "next", match_colours=True),
        }
        tracks = bench.run(graph, prompt.text)
        found.setdefault("unbroken", []).append(tracks["naive_concatenation"].seam(FRAMES // 2))
        for way, track in tracks.items():
            found.setdefault(way, []).append(track.seam(FRAMES))
    bench.report("two clips from an image", found, 2 * FRAMES - 1)


def long_windows(bench: Bench) -> None:
    """A video of twice the trained length from text: in windows, at once, and of two clips."""
    found: dict[str, list[Seam]] = {}
    for prompt in chosen(bench.options.prompts):
        steps = bench.options.steps
        graph = (
            base("t2v", prompt.text)
            | windows()
            | {
                **clip("one", steps, 0),
                **clip("two", steps, 1),
                **clip("whole", steps, 0, length=LONG),
                **clip("cut", steps, 0, "windows", length=LONG),
                **video("two_clips_naively", "one", "two"),
                **video("all_frames_at_once", "whole"),
                **video("context_windows", "cut"),
            }
        )
        tracks = bench.run(graph, prompt.text)
        found.setdefault("unbroken", []).append(tracks["two_clips_naively"].until(FRAMES).worst())
        for way, track in tracks.items():
            found.setdefault(way, []).append(track.worst())
    bench.report("from text", found, LONG)


def loops(bench: Bench) -> None:
    """The way from the last frame to the first of videos from text."""
    found: dict[str, list[Seam]] = {}
    for prompt in [p for p in scenes.score_prompts() if p.motion in ("orbit", "rotate", "bounce")][
        : bench.options.prompts
    ]:
        steps = bench.options.steps
        graph = (
            base("t2v", prompt.text)
            | windows(loop=True)
            | {
                **clip("one", steps, 0),
                **clip("ring", steps, 0, "windows"),
                **video("a_clip_repeated", "one"),
                **video("loop", "ring", loop=True),
            }
        )
        for way, track in bench.run(graph, prompt.text).items():
            found.setdefault(way, []).append(track.round().seam(len(track.centre)))
    bench.report("last to first frame", found, FRAMES)


PARTS: dict[str, Callable[[Bench], None]] = {
    "motion": motion,
    "negative": negative,
    "clips": clips,
    "windows": long_windows,
    "loops": loops,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=[], help="all if none")
    parser.add_argument("--prompts", type=int, default=len(MOTIONS))
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=4, help="negative: of each prompt")
    parser.add_argument("--fast", action="store_true", help="motion: with the 4-step LoRAs")
    parser.add_argument("--save", type=Path, metavar="FOLDER", help="write contact sheets")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="wanduet-longer-") as folder:
        install_pack(Path(folder) / "custom_nodes")
        with ComfyServer(comfyui_folder(), Path(folder)) as server:
            bench = Bench(server, options, Path(folder))
            for part in options.parts or PARTS:
                PARTS[part](bench)
                if options.save:
                    bench.sheets(options.save)


if __name__ == "__main__":
    main()
