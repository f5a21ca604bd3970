"""Quality of the tiny Wan2.2 that is shipped: generated clips are read by a detector.

    python benchmarks/quality.py                              # everything: 12 min, 2 cores
    python benchmarks/quality.py --kinds ti2v --limit 8 --save clips
    python benchmarks/quality.py --kinds t2v i2v --loras models # 4 steps
    python benchmarks/quality.py --weights fp8 --precision bf16 --against models

Prints JSON lines (`| python benchmarks/report.py --show -` makes tables of them): how many of the
56 scoring prompts come out right, made with the official solver, shift, boundary and guidance, or
as the LoRAs or a preset have it, with one standard error over the prompts, and how many of each
shape; how fast the largest object is, in pixels of 128 a frame, and how
much faster than with the first of several presets; whether a given first frame is kept; what the
detector reads in true clips that went through the VAE, the best that could be; and how well the
VAEs reconstruct clips that training has not seen ("novel": combinations that training never shows).
`--models` takes other files of the same names; `--weights` another format of weights and matmuls;
`--against` compares the clips with those of a second folder in fp32.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.lines import emit
from tools.tiny_generate import load_tiny, load_tiny_vae
from tools.tiny_score import Score, psnr, rates
from tools.tiny_score.quality import (
    Generated,
    make_and_score,
    reconstruction_db,
    score_through_vae,
)
from tools.train_tiny.scenes import DIRECTIONS, Prompt, RichPrompt, rich_prompts, score_prompts
from tools.train_tiny.scenes.sheet import contact_sheet
from wan_model.config import Kind
from wan_model.presets import AUTO, preset_names
from wan_model.quant import AS_STORED
from wan_model.quant import names as format_names

SHIPPED = Path(__file__).parents[1] / "models"

TASKS: dict[str, tuple[Kind, bool]] = {
    "t2v": ("t2v", False),
    "i2v": ("i2v", True),
    "ti2v": ("ti2v", True),
    "ti2v-text": ("ti2v", False),
}
"""Kind of model, and whether it is given the first frame."""

Asked = Prompt | RichPrompt

PROMPTS = {"simple": score_prompts, "rich": rich_prompts}
"""Rich ones are for models that were trained on such scenes."""

VAES: dict[str, Kind] = {"Wan2.1": "t2v", "Wan2.2": "ti2v"}
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def main() -> None:
    """Command line."""
    options = _parse()
    dtype = PRECISIONS[options.precision]
    about = {"models": options.models.resolve().name, "device": options.device}
    about |= {"precision": options.precision, "threads": torch.get_num_threads()}
    first: dict[str, list[Generated]] = {}
    for task, preset in product(options.kinds, options.presets):
        runs, steps = _generate(task, preset, options.models, dtype, options.weights, options)
        exact: list[Generated] = []
        if options.against:
            exact, _ = _generate(task, preset, options.against, torch.float32, AS_STORED, options)
        made = {"videos": task, "steps": steps, "weights": options.weights, **about}
        made |= {"preset": preset, "loras": options.loras is not None, "scenes": options.scenes}
        made |= {"guidance": options.guidance} if options.guidance else {}
        made |= _faster(runs, first.setdefault(task, runs))
        emit("quality", made | _clip_columns(runs, exact))
        if options.save:
            _save(runs, options.save / (task if preset == AUTO else f"{task}-{preset}"))
    vaes = {
        name: load_tiny_vae(options.models, kind, device=options.device, dtype=dtype)
        for name, kind in VAES.items()
        if options.vae_clips
    }
    for name, vae in vaes.items():
        true = score_through_vae(vae, _spread(PROMPTS[options.scenes](), options.limit))
        made = {"videos": f"true clips, {name} VAE", **about, "scenes": options.scenes}
        emit("quality", made | _clip_columns([true], []))
        if options.save:
            _save([true], options.save / f"true-{name}")
    for (name, vae), split in product(vaes.items(), ("val", "novel")):
        start = time.perf_counter()
        values = reconstruction_db(vae, split, options.vae_clips)
        seconds = (time.perf_counter() - start) / len(values)
        line = {"vae": name, "split": split, "clips": len(values), **about}
        emit("quality_vae", line | _mean_and_min("psnr_db", values) | {"seconds": seconds})


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kinds", nargs="*", choices=TASKS, default=list(TASKS))
    parser.add_argument("--steps", type=int, help="default: as many as the models want")
    parser.add_argument("--scenes", choices=PROMPTS, default="simple", help="of the prompts")
    parser.add_argument("--seeds", type=int, default=1, help="clips of each prompt")
    parser.add_argument("--limit", type=int, default=56, help="prompts, taken evenly from all")
    parser.add_argument("--vae-clips", type=int, default=32, help="of each split; 0: no VAE")
    parser.add_argument("--models", type=Path, default=SHIPPED, metavar="FOLDER")
    parser.add_argument("--loras", type=Path, metavar="FOLDER", help="with the 4-step LoRAs of it")
    parser.add_argument("--presets", nargs="+", choices=preset_names(), default=[AUTO])
    parser.add_argument("--guidance", type=float, help="default: as the models want it")
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="PSNR to these in fp32")
    parser.add_argument("--save", type=Path, metavar="FOLDER", help="write contact sheets")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    parser.add_argument("--weights", choices=format_names(), default=AS_STORED)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def _generate(
    task: str,
    preset: str,
    models: Path,
    dtype: torch.dtype,
    weights: str,
    options: argparse.Namespace,
) -> tuple[list[Generated], int]:
    """Returns the clips of a task, one set for each seed, and the steps they took."""
    kind, with_image = TASKS[task]
    wan = load_tiny(
        models,
        kind,
        device=options.device,
        dtype=dtype,
        weights=weights,
        loras=options.loras,
        preset=preset,
        guidance=options.guidance,
    )
    prompts = _spread(PROMPTS[options.scenes](), options.limit)
    runs = [
        make_and_score(wan, prompts, with_image=with_image, steps=options.steps, seed=seed)
        for seed in range(options.seeds)
    ]
    return runs, wan.settings(options.steps).steps


def _spread(prompts: Sequence[Asked], limit: int) -> list[Asked]:
    """Returns at most `limit` prompts from all over the list."""
    limit = min(limit, len(prompts))
    return [prompts[number * len(prompts) // limit] for number in range(limit)]


def _clip_columns(runs: Sequence[Generated], exact: Sequence[Generated]) -> dict[str, Any]:
    """Returns what is known of clips, added up over all seeds."""
    scores = [score for run in runs for score in run.scores]
    found = rates(scores)
    shares = {name: getattr(found, name) for name in ("colour", "shape", "motion", "count")}
    speeds = [128 * score.found[0].motion.speed for score in scores if score.found]
    to_exact = [
        psnr(video, reference)
        for run, other in zip(runs, exact, strict=False)
        for video, reference in zip(run.videos, other.videos, strict=True)
    ]
    return {
        "clips": len(scores),
        **shares,
        "all_right": found.all,
        **_errors(runs),
        **_shapes(runs),
        **({"speed_px": sum(speeds) / len(speeds)} if speeds else {}),
        **_kinds(runs),
        **_mean_and_min("first_frame_db", [value for run in runs for value in run.first_frame_db]),
        **_mean_and_min("to_fp32_db", to_exact),
        "seconds": sum(run.seconds for run in runs) / len(scores),
    }


def _errors(runs: Sequence[Generated]) -> dict[str, float]:
    """Returns one standard error of each share over the prompts, none for a single prompt.

    A prompt that fails does so with several seeds, so its clips count as one.
    """
    prompts = list(zip(*(run.scores for run in runs), strict=True))
    if len(prompts) < 2:
        return {}
    each = [rates(scores) for scores in prompts]
    names = {"all": "all_right"} | {name: name for name in ("colour", "shape", "motion", "count")}
    return {
        f"{shown}_error": stdev(getattr(found, name) for found in each) / len(each) ** 0.5
        for name, shown in names.items()
    }


def _shapes(runs: Sequence[Generated]) -> dict[str, float]:
    """Returns the shares in which prompts for one object of each shape show it."""
    right: dict[str, list[bool]] = {}
    for prompt, score in (p for run in runs for p in zip(run.prompts, run.scores, strict=True)):
        if isinstance(prompt, Prompt):
            right.setdefault(prompt.shape, []).append(score.shape_ok)
    return {f"{shape}_shape": mean(values) for shape, values in sorted(right.items())}


def _faster(runs: Sequence[Generated], first: Sequence[Generated]) -> dict[str, float]:
    """Returns how much faster objects go than with the first preset, in pixels of 128 a frame.

    Pairs of clips from one prompt and noise that ask for a straight motion, and both show it.
    """
    pairs = [
        128 * (one.found[0].motion.speed - other.found[0].motion.speed)
        for run, before in zip(runs, first, strict=True)
        for prompt, one, other in zip(run.prompts, run.scores, before.scores, strict=True)
        if isinstance(prompt, Prompt)
        if prompt.motion in DIRECTIONS and one.motion_ok and other.motion_ok
    ]
    if runs is first or len(pairs) < 2:
        return {}
    error = stdev(pairs) / len(pairs) ** 0.5
    return {"faster_px": mean(pairs), "faster_px_error": error, "faster_pairs": len(pairs)}


def _kinds(runs: Sequence[Generated]) -> dict[str, float]:
    """Returns the shares in which rich prompts of each kind show what they are about, if any."""
    right: dict[str, list[bool]] = {}
    for prompt, score in (p for run in runs for p in zip(run.prompts, run.scores, strict=True)):
        if isinstance(prompt, RichPrompt):
            right.setdefault(prompt.scene.kind, []).append(score.kind_ok)
    return {f"{kind}_shown": sum(values) / len(values) for kind, values in right.items()}


def _mean_and_min(name: str, values: Sequence[float]) -> dict[str, float]:
    """Returns two columns, none without values."""
    if not values:
        return {}
    return {name: sum(values) / len(values), f"{name}_min": min(values)}


def _save(runs: Sequence[Generated], stem: Path) -> None:
    """Writes one contact sheet per seed; captions say what is wrong."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    for seed, run in enumerate(runs):
        captions = [
            prompt.text + _faults(score)
            for prompt, score in zip(run.prompts, run.scores, strict=True)
        ]
        contact_sheet(run.videos, captions, stem.with_name(f"{stem.name}-seed{seed}.png"))


def _faults(score: Score) -> str:
    """Returns what to add to a caption."""
    names = ("colour", "shape", "motion", "count", "kind")
    wrong = [name for name in names if not getattr(score, f"{name}_ok")]
    return f" ({', '.join(wrong)} WRONG)" if wrong else ""


if __name__ == "__main__":
    main()
