"""Loss curves as one image; needs matplotlib."""

import json
from pathlib import Path

from .files import TrainingFolder


def plot_curves(folder: TrainingFolder, output: Path) -> None:
    """Draws the loss of every stage that has a log, one panel each."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    logs = sorted((folder.path / "logs").glob("*.json"))
    columns = min(3, max(1, len(logs)))
    rows = -(-len(logs) // columns) or 1
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(5 * columns, 3.2 * rows), squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(logs) :]:
        axis.set_axis_off()
    for axis, file in zip(axes.flat, logs, strict=False):
        entries = json.loads(file.read_text())["log"]
        for name, style in (("loss", "-"), ("val_loss", "o")):
            points = [(entry["step"], entry[name]) for entry in entries if name in entry]
            if points:
                axis.plot(*zip(*points, strict=True), style, label=name)
        notes = [f"{k} {v:.4g}" for k, v in entries[-1].items() if k in ("val_loss", "val_psnr_db")]
        axis.set_title(" ".join([file.stem, *notes]))
        axis.set_xlabel("step")
        axis.set_yscale("log")
        axis.legend()
    figure.savefig(output, dpi=110)
    pyplot.close(figure)
