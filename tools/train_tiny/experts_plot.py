"""The comparison of one model with two experts, as one image."""

import json

from .files import TrainingFolder

LABELS = {"t2v_single": "one model", "t2v_high": "high-noise expert", "t2v_low": "low-noise expert"}
COLOURS = {"t2v_single": "0.35", "t2v_high": "tab:orange", "t2v_low": "tab:blue"}


def plot_experts(folder: TrainingFolder) -> None:
    """Draws experts.png from the experts.json of a training folder.

    Left to right: the loss by noise level, the same relative to the one model, and the share of
    scoring prompts whose clips are right.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    result = json.loads((folder.path / "experts.json").read_text())
    figure, (absolute, relative, bars) = pyplot.subplots(
        1, 3, figsize=(15, 4), layout="constrained"
    )
    single = result["losses"]["t2v_single"]
    for name, values in result["losses"].items():
        style = {"label": LABELS[name], "color": COLOURS[name]}
        absolute.plot(result["sigmas"], values, ".-", **style)
        ratio = [100 * (value / base - 1) for value, base in zip(values, single, strict=True)]
        relative.plot(result["sigmas"], ratio, ".-", **style)
    absolute.set(title="Loss on unseen clips", xlabel="noise level sigma", yscale="log")
    relative.set(title="Loss relative to the one model, %", xlabel="noise level sigma")
    relative.set_ylim(-15, 15)
    boundary = result["outcomes"][0]["arrangement"]["boundary"]
    for axis in (absolute, relative):
        axis.axvline(boundary, color="0.7", linestyle="--", label=f"boundary {boundary:g}")
        axis.legend()
    outcomes = list(reversed(result["outcomes"]))
    names = [outcome["arrangement"]["name"] for outcome in outcomes]
    shares = [100 * outcome["rates"]["all"] for outcome in outcomes]
    bars.bar_label(bars.barh(names, shares, color="0.6"), fmt="%.0f")
    bars.set(title="Scoring prompts with everything right, %", xlim=(0, 108))
    figure.savefig(folder.path / "experts.png", dpi=110)
    pyplot.close(figure)
