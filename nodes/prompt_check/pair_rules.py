"""Experts that do not belong together, or not where they are."""

from collections.abc import Iterator

from ...wan_model.loading import Expert, guess_pair, says_noise
from .graph import LOW, Graph
from .known_files import DIFFUSION, Describe, Model, find_model
from .number_rules import WHOLE_RUN
from .problem import Problem

HIGH, START = "model_high", "model_start"
FILES: tuple[tuple[str, Expert], ...] = (("high_noise_model", "high"), ("low_noise_model", "low"))


def loader_problems(graph: Graph, describe: Describe, node_id: str) -> Iterator[Problem]:
    """Looks at the two files of a loader of experts."""
    names = [graph.value(node_id, name) for name, _ in FILES]
    if not all(isinstance(name, str) for name in names):
        return
    high, low = (describe(DIFFUSION, name) for name in names)
    if names[0] == names[1]:
        wrong = FILES[1 if high is None or high.expert != "low" else 0][0]
        yield Problem(
            node_id,
            wrong,
            f"Both experts are the same file. Got {names[0]} twice, need the high-noise and the "
            "low-noise file. Choose the other one here.",
        )
        return
    if high is None or low is None:
        return
    for (name, _), info in zip(FILES, (high, low), strict=True):
        if info.kind == "ti2v":
            yield Problem(
                node_id,
                name,
                f"TI2V-5B has one model for all steps. Got {info.path.name}, need an expert of "
                "T2V-A14B or I2V-A14B. Load this file with 'Wan 2.2 Load Model'.",
            )
            return
    if high.kind and low.kind and high.kind != low.kind:
        yield Problem(
            node_id,
            FILES[1][0],
            f"These two files don't belong together. Got {names[0]} ({high.label}) and {names[1]} "
            f"({low.label}), need both of one model. Choose both of T2V-A14B or both of I2V-A14B.",
        )
    elif (experts := guess_pair(high.path, low.path)) == ("low", "high"):
        yield Problem(
            node_id,
            FILES[0][0],
            f"These look swapped, judging by the file names. Got {names[0]} as high_noise_model "
            f"and {names[1]} as low_noise_model, need them the other way round. Swap them.",
        )
    else:
        yield from _same_expert(node_id, names, experts)


def _same_expert(
    node_id: str, names: list[str], experts: tuple[Expert | None, ...]
) -> Iterator[Problem]:
    for (name, right), expert in zip(FILES, experts, strict=True):
        if expert not in (None, right):
            yield Problem(
                node_id,
                name,
                f"Both experts are {expert}-noise files, judging by the file names. Got {names[0]} "
                f"as high_noise_model and {names[1]} as low_noise_model, need one of each. Choose "
                "the other one here, or rename a file whose name is wrong.",
            )


def pair_problems(graph: Graph, describe: Describe, node_id: str) -> Iterator[Problem]:
    """Looks at the models of a sampler or guider."""
    high = find_model(graph, describe, node_id, HIGH)
    if high is None:
        return
    if not graph.given(node_id, LOW):
        yield from _forgotten(graph, node_id, high)
        return
    low = find_model(graph, describe, node_id, LOW)
    if low is None:
        return
    if "ti2v" in (high.kind, low.kind):
        where, text = (LOW, "Disconnect this input") if high.kind == "ti2v" else (LOW, "Replace it")
        yield Problem(
            node_id,
            where,
            f"TI2V-5B has one model for all steps. Got {high.info.label} at model_high and "
            f"{low.info.label} at model_low, need it at model_high alone. {text}, or load both "
            "experts of T2V-A14B or I2V-A14B.",
        )
    elif high.kind != low.kind:
        yield Problem(
            node_id,
            LOW,
            f"These two experts don't belong together. Got {high.info.label} at model_high and "
            f"{low.info.label} at model_low, need the high-noise and the low-noise file of one "
            "model. Choose both of T2V-A14B or both of I2V-A14B.",
        )
    elif high.is_same_as(low) or graph.link(node_id, HIGH) == graph.link(node_id, LOW):
        yield Problem(
            node_id,
            HIGH if high.info.expert == "low" else LOW,
            f"The same expert is connected twice. Got {high.name} at model_high and model_low, "
            "need the high-noise and the low-noise one. Connect the other expert here.",
        )
    elif _experts(high, low) == ("low", "high"):
        yield Problem(
            node_id,
            HIGH,
            f"The experts are crossed. Got {high.name} at model_high and {low.name} at model_low, "
            "need the high-noise expert at model_high. Swap the two links.",
        )


def start_problems(graph: Graph, describe: Describe, node_id: str) -> Iterator[Problem]:
    """Looks at the model of the first steps."""
    high = find_model(graph, describe, node_id, HIGH)
    start = find_model(graph, describe, node_id, START)
    if high is None or start is None:
        return
    if start.kind != high.kind or start.info.expert == "low":
        yield Problem(
            node_id,
            START,
            f"The model for the first steps does not fit. Got {start.name} here and {high.name} at "
            "model_high, need the high-noise model at both, here without its LoRA for few steps. "
            "Connect that one, or disconnect this input.",
        )


def _experts(high: Model, low: Model) -> tuple[Expert | None, Expert | None]:
    """Returns which experts two models are: by their names, or by the inputs of their loaders."""
    of_high, of_low = guess_pair(high.info.path, low.info.path)
    inputs = dict(FILES)
    return of_high or inputs.get(high.file_input), of_low or inputs.get(low.file_input)


def _forgotten(graph: Graph, node_id: str, high: Model) -> Iterator[Problem]:
    """A high-noise expert cannot finish a video; a low-noise one can make one alone."""
    stands_for = says_noise(high.info.path.name) or dict(FILES).get(high.file_input)
    if high.kind == "ti2v" or stands_for != "high":
        return
    end = graph.number(node_id, "end_at_step")
    if end is not None and end >= WHOLE_RUN:
        yield Problem(
            node_id,
            LOW,
            "The low-noise expert is missing. Got the high-noise expert alone for a whole run, "
            "need both. Connect the low-noise model here, or end at the step where they switch.",
        )
