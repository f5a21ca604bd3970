"""Which files of a workflow are made for few steps, and what a run is sampled with.

The editor asks before a run, when only the workflow is known; a run asks of its MODELs, and of the
workflow what these do not tell: the files that ComfyUI's own loaders read.
"""

import re
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from operator import attrgetter
from pathlib import PurePosixPath
from typing import Any, TypeVar

from ..wan_model.config import DiTConfig
from ..wan_model.errors import SettingsError, ShortageError, WanError
from ..wan_model.lora import LoraFile, is_foreign, open_lora
from ..wan_model.presets import Distilled, recognise
from ._comfy.host import runtime
from ._comfy.model import distilled_loras
from .lora_pair import FOLDER, NONE, ROWS, low_file, row_of
from .prompt_check.graph import LOW, LOW_OUTPUT, Graph, Output
from .prompt_check.known_files import Describe, describe_file, find_model

T = TypeVar("T")

PAIR = "WanDuetLoraPair"
SWITCHES = ("on", "active")
"""Of a row of several LoRAs in one widget, as packs have them."""
NUMBER = re.compile(r"\d+")
"""Of a row of several LoRAs whose inputs are those of the node, such as lora_name_1, switch_1."""
UNKNOWN = 1_000_000
"""Patches of a file that cannot be read: more than any makes."""
DISTILLED, MOST_PATCHES = attrgetter("distilled"), attrgetter("most_patches")
"""Questions to a `LoraFile`."""


@dataclass(frozen=True)
class NamedLora:
    """A LoRA that a workflow loads for a model."""

    name: str
    strength: float
    ours: bool
    """Whether our node loads it."""


@dataclass(frozen=True)
class Named:
    """What a workflow says of the model at an input."""

    model: Distilled | None = None
    is_ours: bool = False
    """Whether our loader loads it."""
    loras: tuple[NamedLora, ...] = ()
    """Those that fit it, as far as that is known."""
    foreign: tuple[NamedLora, ...] = ()
    """Those that certainly do not, and so have no effect on it."""

    @property
    def distilled(self) -> list[Distilled]:
        """What makes it a model for few steps."""
        own = [self.model] if self.model else []
        return [*own, *(found for lora in self.loras if (found := of_lora(lora)))]

    @property
    def loras_of_others(self) -> list[Distilled]:
        """The LoRAs for few steps that nodes of others load."""
        return [found for lora in self.loras if not lora.ours and (found := of_lora(lora))]

    @property
    def has_other_loras(self) -> bool:
        """Whether nodes of others load LoRAs that are not for few steps."""
        return any(
            not lora.ours and lora.strength != 0 and of_lora(lora) is None for lora in self.loras
        )


def named_in(graph: Graph, node_id: str, name: str, describe: Describe = describe_file) -> Named:
    """Returns what a workflow says of the model at an input of a node."""
    model = find_model(graph, describe, node_id, name)
    loras = tuple(lora for output in graph.chain(node_id, name) for lora in _loras(graph, output))
    if model is None:
        return Named(loras=loras)
    ours = graph.kind(model.output.node_id).startswith("WanDuet")
    config = model.info.config
    assert isinstance(config, DiTConfig)
    foreign = tuple(lora for lora in loras if _is_foreign(lora.name, config))
    fitting = tuple(lora for lora in loras if lora not in foreign)
    return Named(model.info.distilled, ours, fitting, foreign)


def of_lora(lora: NamedLora) -> Distilled | None:
    """Tells whether a LoRA makes a model one for few steps. Turned round or off, it does not."""
    if lora.strength <= 0:
        return None
    return _said_by(lora.name, DISTILLED, _by_name(lora.name))


def _by_name(name: str) -> Distilled | None:
    return recognise(name.replace("\\", "/").rpartition("/")[2], "lora")


def _is_foreign(name: str, config: DiTConfig) -> bool:
    return _said_by(name, is_foreign, False, config)


def _said_by(name: str, question: Callable[..., T], unread: T, *about: Hashable) -> T:
    """Returns what a LoRA file answers.

    Args:
        name: of the file.
        question: takes the file.
        unread: the answer where the file cannot be read. Its loader will say what is wrong.
        about: what the question takes besides.
    """
    try:
        answer = _answer(name, runtime.file_stamp(FOLDER, name), question, *about)
    except ShortageError:
        return unread
    return answer[0] if answer else unread


@lru_cache(maxsize=192)
def _answer(name: str, _stamp: str, question: Callable[..., T], *about: Hashable) -> tuple[T, ...]:
    """Remembers an answer, and that a file cannot be read; not that there was no memory for it."""
    try:
        return (question(open_lora(runtime.model_path(FOLDER, name)), *about),)
    except ShortageError:
        raise
    except (WanError, OSError, ValueError):
        return ()


def _loras(graph: Graph, output: Output) -> Iterator[NamedLora]:
    """Returns the LoRAs that one node adds: ours, core's, and those that name inputs as core's."""
    node_id = output.node_id
    inputs = graph.inputs(node_id)
    if graph.kind(node_id) == PAIR:
        yield from _of_pair(graph, output)
        return
    name = graph.value(node_id, "lora_name")
    if isinstance(name, str) and graph.link(node_id, "model") is not None:
        strength = inputs.get("strength_model", 1.0)
        yield NamedLora(name, _number(strength), ours=False)
    for value in inputs.values():  # rows of several LoRAs in one node, as rgthree's has them
        if isinstance(value, Mapping) and isinstance(value.get("lora"), str) and value.get("on"):
            yield NamedLora(value["lora"], _number(value.get("strength", 1.0)), ours=False)


def _of_pair(graph: Graph, output: Output) -> Iterator[NamedLora]:
    values = {name: graph.value(output.node_id, name) for name in graph.inputs(output.node_id)}
    given = {name: value for name, value in values.items() if value is not None}
    is_low = output.slot == LOW_OUTPUT
    for end in ROWS:
        row = row_of(given, end)
        if not row.on:
            continue
        name, strength = row.high, row.strength_high
        if is_low:
            has_low = graph.given(output.node_id, LOW)
            try:
                name = low_file(row, has_low=has_low)[0]
            except (WanError, OSError, ValueError):
                continue  # the node will say what is wrong with it
            strength = row.strength_low
        if name != NONE:
            yield NamedLora(name, _number(strength), ours=True)


def _number(value: Any) -> float:
    """Returns a strength; one that a link decides counts as 1."""
    return float(value) if isinstance(value, (int, float)) else 1.0


def of_foreign(prompt: Any, node_id: str | None, *names: str) -> list[str]:
    """Returns what is to be said of LoRAs for few steps that do not fit the models at inputs."""
    return said_of_foreign(*(_named(prompt, node_id, name) for name in names))


def said_of_foreign(*named: Named) -> list[str]:
    """Returns the same of what a workflow says."""
    found = (of_lora(lora) for each in named for lora in each.foreign)
    files = dict.fromkeys(distilled.file for distilled in found if distilled)
    return [f"{file} does not fit this model and is not counted." for file in files]


def said_of_unsure(
    graph: Graph, node_id: str, names: Sequence[str], named: Sequence[Named]
) -> list[str]:
    """Returns what is to be said before a run of LoRAs that may be on its models."""
    sure = {lora.name for each in named for lora in (*each.loras, *each.foreign)}
    found = dict.fromkeys(
        file for name in names for file in _named_anywhere(graph, node_id, name, only_on=True)
    )
    may_be = [file for file in found if file not in sure and of_lora(NamedLora(file, 1.0, False))]
    return [
        f"{file} is named by a node of others, which may put it on the model. If the run finds it "
        "there, steps, CFG and whatever else is left at 0 or auto are those of this LoRA."
        for file in may_be
    ]


def _named_anywhere(
    graph: Graph, node_id: str, name: str, *, only_on: bool = False
) -> Iterator[str]:
    """Returns the LoRA files that nodes of others name on the way to an input, used or not.

    Args:
        graph: the workflow.
        node_id: of the node with the input.
        name: of the input.
        only_on: whether to leave out rows that look as if they are off.
    """
    source = graph.link(node_id, name)
    listed = runtime.model_names(FOLDER)
    short = {PurePosixPath(file.replace("\\", "/")).stem: file for file in reversed(listed)}
    known = {**short, **{file: file for file in listed}}
    for each in sorted(graph.upstream([source.node_id])) if source else ():
        if not graph.kind(each).startswith("WanDuet"):
            inputs = graph.inputs(each)
            keys = [key for key in inputs if not (only_on and _is_off(inputs, key))]
            values = (graph.value(each, key) for key in keys)
            yield from (known[text] for value in values for text in _texts(value) if text in known)


def _is_off(inputs: Mapping[str, Any], key: str) -> bool:
    """Whether an input is of a row whose switch is off or whose strengths are 0."""
    number = NUMBER.findall(key)
    row = {name: value for name, value in inputs.items() if NUMBER.findall(name) == number}
    if not number:
        return False
    if any(value is False or str(value).lower() == "off" for value in row.values()):
        return True
    of_model = (value for name, value in row.items() if "clip" not in name)
    strengths = [
        value for value in of_model if isinstance(value, (int, float)) and value is not True
    ]
    return bool(strengths) and not any(strengths)


def _texts(value: Any, depth: int = 4) -> Iterator[str]:
    """Returns all texts in a widget's value, which may hold rows of LoRAs, but not those off."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping) and any(value.get(name) is False for name in SWITCHES):
        return
    elif depth and isinstance(value, (Mapping, list)):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(part, depth - 1)


def of_input(patcher: Any, prompt: Any, node_id: str | None, name: str) -> list[Distilled]:
    """Returns what makes the MODEL at an input of a running node one for few steps."""
    named = _named_on(patcher, prompt, node_id, name)
    own = [named.model] if named.model and not named.is_ours else []
    return [*own, *distilled_loras.distilled_on(patcher, named.loras_of_others)]


def without_loras(patcher: Any, prompt: Any, node_id: str | None, name: str) -> Any:
    """Returns the MODEL at an input without its LoRAs for few steps.

    Raises:
        SettingsError: if they cannot be taken off.
    """
    named = _named_on(patcher, prompt, node_id, name)
    found, what = None, "they cannot be told from what else is merged into it"
    if distilled_loras.is_distilled_itself(patcher) or (named.model and not named.is_ours):
        what = "its own file is made for few steps"
    else:
        files = [lora.name for lora in named.loras if not lora.ours and of_lora(lora)]
        counts = [_said_by(file, MOST_PATCHES, UNKNOWN) for file in files]
        found = distilled_loras.without_distilled(
            patcher, counts, named.has_other_loras, _opened(files)
        )
    if found is None:
        raise SettingsError(
            f"The first steps need a model without a LoRA for few steps. Got {name} alone, and "
            f"{what}. Connect the high-noise model before its LoRA at model_start, or choose "
            "another preset."
        )
    return found


def of_start(has_start: bool, of_high: Sequence[Distilled]) -> str:
    """Returns what samples the first steps, for people."""
    if has_start:
        return "First steps: model_start."
    names = ", ".join(dict.fromkeys(each.file for each in of_high))
    return f"First steps: model_high without {names}." if names else "First steps: model_high."


def _named(prompt: Any, node_id: str | None, name: str) -> Named:
    if not isinstance(prompt, Mapping) or node_id is None or node_id not in prompt:
        return Named()
    return named_in(Graph(prompt), node_id, name)


def _named_on(patcher: Any, prompt: Any, node_id: str | None, name: str) -> Named:
    """Returns the same, with files of nodes whose inputs tell nothing, where the MODEL has them."""
    named = _named(prompt, node_id, name)
    if not isinstance(prompt, Mapping) or node_id is None:
        return named
    sure = {lora.name for lora in (*named.loras, *named.foreign)}
    files = dict.fromkeys(_named_anywhere(Graph(prompt), node_id, name))
    found = [(file, _strength_on(patcher, file)) for file in files if file not in sure]
    more = [NamedLora(file, strength, ours=False) for file, strength in found if strength]
    return replace(named, loras=(*named.loras, *more))


def _strength_on(patcher: Any, name: str) -> float | None:
    """Returns with which strength a node of others has put a file on a MODEL, if one has."""
    found = [distilled_loras.patches_of(patcher, file) for file in _opened([name])]
    return next((float(patches[0][0]) for patches in found if patches), None)


def _opened(names: Sequence[str]) -> list[LoraFile]:
    """Returns files of which all can be opened."""
    try:
        return [open_lora(runtime.model_path(FOLDER, name)) for name in names]
    except (WanError, OSError, ValueError):
        return []  # their loader will say what is wrong
