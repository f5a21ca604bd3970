"""Trains the tiny Wan2.2: `python -m tools.train_tiny COMMAND... --out FOLDER`.

Stages, in this order; one that was stopped goes on where it was:

    text_encoder                         answers to questions about captions
    vae21 vae22                          the VAEs
    t2v_small                            small clips, all noise levels
    t2v                                  all noise levels
    t2v_high t2v_low t2v_single          from t2v: the two experts, and one model going on
    i2v_high i2v_low                     from the T2V experts
    ti2v                                 wider, on the Wan2.2 VAE
    t2v_lightning_high t2v_lightning_low four-step LoRAs for the experts, taught by these
    i2v_lightning_high i2v_lightning_low

Several stages may be given at once; `--seconds` is for each of them (as a rule the recipe's own
times), and the schedule is cut to what the machine does in that time. Other commands:
`clips` (makes those of `--stages` beforehand, for instance on a second GPU), `tokenizer`, `sizes`,
`import` (the shipped files of `--models` in place of stages that were not run),
`words` (gives a trained tokenizer and text encoder the words that only the recipe's scenes need),
`preview` (generated clips of `--stages` as a PNG), `experts` (the table of docs/two-experts.md),
`export` and `plot`; these but `clips` need no GPU.

Each stage takes one GPU. A transformer can take several, each with clips of its own and all with
the mean of their weights after every few steps: `torchrun --nproc-per-node 2 -m tools.train_tiny
ti2v ...`. On one H100 the recipe is seven calls of less than ten minutes:

    1. text_encoder vae21 t2v_small
    2. clips --stages t2v i2v_high
    3. t2v t2v_high
    4. t2v_low i2v_high t2v_single
    5. i2v_low vae22
    6. clips --stages ti2v
    7. ti2v
    then, anywhere: experts export plot

DIR/weights is all that later stages and `export` need (5 to 10 MB a file); DIR/state, about 100 MB
a stage, is needed only to go on with an unfinished stage.

`--scenes simple` draws the scenes that everything shipped so far was trained on, `hard` the same
with more stars, rotations and orbits, for a leg that goes on, and `rich`, the default, those of the
next training; see `scenes.sample` and `scenes.rich`.

Needs torch, transformers, sentencepiece, safetensors, einops, pillow, numpy and ftfy; `plot` also
matplotlib.

Shipped weights learn the rich scenes by `import words text_encoder`, then their stages in any
order, all with `--go-on`: each begins with its own weights, at lower rates, and of the VAEs the
decoders alone are trained. LoRAs do not go on: the lightning stages train them anew.

To train a finished stage longer, delete its file in DIR/state and give `--init-from` its own name:
it begins with its weights and a fresh schedule.
"""

import argparse
import logging
import math
from pathlib import Path

import torch

from .config import ClipRecipe, PoolRecipe, Recipe
from .config_continued import continued
from .distill import export_loras, run_distillation
from .distill_config import Distillation
from .experts import compare_experts
from .experts_plot import plot_experts
from .export import export_all
from .files import TrainingFolder
from .import_shipped import import_shipped
from .new_words import add_words
from .peers import open_peers
from .plot import plot_curves
from .preview import preview
from .runs import make_clips, open_tokenizer, run_stage
from .scenes import SAMPLERS
from .sizes import table

SHIPPED_MODELS = Path(__file__).parents[2] / "models"


def main() -> None:
    """Command line."""
    distillation = Distillation()
    arguments = _parse(Recipe(), distillation)
    clips, pool = ClipRecipe(scenes=arguments.scenes), PoolRecipe(clips=arguments.pool)
    recipe = Recipe(clips=clips, pool=pool)
    recipe = continued(recipe, arguments.go_on) if arguments.go_on is not None else recipe
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    torch._dynamo.config.recompile_limit = 64  # one version per width and size class of a norm
    torch._dynamo.config.automatic_dynamic_shapes = False  # a teacher's batch is not a student's
    folder = TrainingFolder(arguments.out)
    peers, device = open_peers(torch.device(arguments.device))
    options = {
        "device": device,
        "seconds": arguments.seconds,
        "steps": arguments.steps,
        "stop_after": arguments.stop_after,
        "init_from": arguments.init_from,
        "compile_blocks": device.type == "cuda",
    }
    for command in arguments.commands:
        match command:
            case "sizes":
                print(table(recipe))
            case "tokenizer":
                print(f"{open_tokenizer(recipe, folder).size} pieces")
            case "import":
                print("imported:", *import_shipped(arguments.models, folder))
            case "words":
                print("new words:", *add_words(recipe, folder))
            case "export":
                for file in (*export_all(recipe, folder), *export_loras(distillation, folder)):
                    print(f"{file.stat().st_size:>10} {file.name}")
            case "plot":
                plot_curves(folder, folder.path / "curves.png")
                if (folder.path / "experts.json").is_file():
                    plot_experts(folder)
            case "experts":
                levels = 24 if device.type == "cuda" else 12
                steps = arguments.steps or 20
                compare_experts(recipe, folder, device=device, steps=steps, levels=levels)
            case "clips":
                make_clips(arguments.stages, recipe, folder, device)
            case "preview":
                name = "preview-" + "-".join(arguments.stages)
                output = folder.path / f"{name}.png"
                preview(tuple(arguments.stages), recipe, folder, output, device=device)
            case _ if command in distillation.stages:
                run_distillation(command, recipe, distillation, folder, **options)
            case _:
                run_stage(command, recipe, folder, peers=peers, **options)
    peers.leave()


def _parse(recipe: Recipe, distillation: Distillation) -> argparse.Namespace:
    others = (
        "tokenizer",
        "sizes",
        "import",
        "words",
        "clips",
        "preview",
        "experts",
        "export",
        "plot",
    )
    parser = argparse.ArgumentParser(prog="python -m tools.train_tiny", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    stages = (*recipe.stages, *distillation.stages)
    parser.add_argument("commands", nargs="+", choices=(*stages, *others), metavar="COMMAND")
    parser.add_argument("--out", type=Path, default=Path("build/train_tiny"))
    parser.add_argument("--models", type=Path, default=SHIPPED_MODELS, help="shipped files")
    parser.add_argument("--seconds", type=float, help="wall-clock time of each stage")
    parser.add_argument("--steps", type=int, help="length of the schedule, whatever the time")
    parser.add_argument("--stop-after", type=int, help="stop after so many steps")
    parser.add_argument("--init-from", choices=stages, help="stage to begin with")
    parser.add_argument("--pool", type=int, default=PoolRecipe().clips, help="clips to train on")
    go_on = "stages begin with their own weights; RATE: times the learning rates"
    parser.add_argument("--go-on", type=_rate, nargs="?", const=1.0, metavar="RATE", help=go_on)
    parser.add_argument("--scenes", choices=tuple(SAMPLERS), default=Recipe().clips.scenes)
    parser.add_argument("--stages", nargs="+", default=["t2v"], choices=tuple(recipe.dits))
    cuda = torch.cuda.is_available()
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    return parser.parse_args()


def _rate(text: str) -> float:
    rate = float(text)
    if not 0 < rate < math.inf:
        raise argparse.ArgumentTypeError(f"got {text}, need a number above 0")
    return rate


if __name__ == "__main__":
    main()
