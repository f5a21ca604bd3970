"""One checkpoint, opened once: what it is, and every weight it holds.

Its headers have been read, nothing else. Everything that loads, converts or describes a checkpoint
takes it in this form.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TypeVar

from ..config import DiTConfig, Kind, VaeConfig
from ..errors import CheckpointError, RelativeError
from ..quant import WeightFormat
from ..vae.preview import PreviewVaeConfig
from .bundles import PART_PREFIXES, is_bundle, part_name
from .entries import EXTRAS, WeightEntry, group, unsupported
from .files import CheckpointFiles, Expert, find_files, guess_expert
from .gguf_layout import whole_shapes
from .keymap import PREFIXES, Component, KeyStyle, official_names, strip_prefix
from .models import (
    COMPONENTS,
    WAN_RELATIVES,
    ComponentKind,
    OtherModel,
    label_of,
    recognise,
    variant_of,
)
from .passengers import set_down
from .sizes import Clues, Config, TextEncoderConfig
from .source import RawTensor, first_names
from .source_gguf import is_gguf, open_gguf
from .source_safetensors import open_safetensors

MAX_CONFIG_BYTES = 1 << 20
"""Of config.json; real ones have some hundred bytes."""

Wanted = TypeVar("Wanted", DiTConfig, VaeConfig, TextEncoderConfig)


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """What a checkpoint is."""

    path: Path
    component: Component
    config: Config
    kind: Kind | None
    """Of a diffusion model: T2V, I2V or TI2V."""
    variant: str
    """One of "A14B", "5B", "Wan2.1", "Wan2.2", "umT5-xxl", or sizes: "dim 256, 3 layers"."""
    expert: Expert | None
    """Of an A14B-like model: a guess from the file name. The tensors do not tell."""
    formats: tuple[WeightFormat, ...]
    """Of the matrices that make up the model's size, that of most weights first."""
    bytes: int
    parameters: int
    key_style: KeyStyle
    remarks: tuple[str, ...] = ()
    """For people: what the file holds that is not used."""

    @property
    def format(self) -> str:
        """For people: "fp32", "bf16", "fp8 scaled", "mixed (fp8 scaled, bf16)"."""
        names = [weight_format.name for weight_format in self.formats]
        return names[0] if len(names) == 1 else f"mixed ({', '.join(names)})"

    @property
    def label(self) -> str:
        """One line for people: "A14B I2V, high noise, fp8 scaled"."""
        if isinstance(self.config, PreviewVaeConfig):
            name = f"{self.config.family} preview VAE for {self.variant}"
            limits = "" if self.config.encoder_dim else ", decoder only"
            return f"{name} ({self.config.z_dim} channels){limits}, {self.format}"
        what = self.kind.upper() if self.kind else label_of(type(self.config))
        sized = self.variant.startswith("dim ")
        name = f"{what} ({self.variant})" if sized else f"{self.variant} {what}"
        expert = f", {self.expert} noise" if self.expert else ""
        return f"{name}{expert}, {self.format}"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A part of Wan2.2 on disk."""

    folder: Path | None
    """The folder that belongs to this checkpoint alone, or None for a file among others."""
    info: CheckpointInfo
    kind: ComponentKind
    entries: dict[str, WeightEntry]
    """By official name."""
    extras: dict[str, RawTensor]
    """Tensors that are no weights: notes, an embedded tokenizer."""
    metadata: dict[str, str]

    @property
    def path(self) -> Path:
        """As given: a file, an index or a folder."""
        return self.info.path

    @property
    def files(self) -> tuple[Path, ...]:
        """Those that hold its weights."""
        parts = (part for entry in self.entries.values() for part in entry.parts.values())
        return tuple(sorted({part.file for part in parts}))

    def require(self, wanted: type[Wanted]) -> Wanted:
        """Returns the sizes of a checkpoint that must be of one component.

        Args:
            wanted: the component, by the type of its sizes.

        Raises:
            CheckpointError: says what the file is instead.
        """
        if isinstance(self.info.config, wanted):
            return self.info.config
        raise CheckpointError(
            f"{self.path.name} is the wrong kind of file. Got a "
            f"{label_of(type(self.info.config))} ({self.info.label}), need a {label_of(wanted)}. "
            "Choose another file here."
        )


CheckpointLike = Checkpoint | str | PathLike[str]
"""An opened checkpoint, or the path of one: a .safetensors or .gguf file, a shard or the index of a
sharded one, or a folder with one."""


def detect(path: CheckpointLike) -> CheckpointInfo:
    """Describes a checkpoint without loading it; of an all-in-one file, its transformer.

    Raises:
        CheckpointError: for a file that is damaged, unsafe, or no part of Wan2.2; it names what
            was found instead.
    """
    return open_checkpoint(path).info


def open_checkpoint(path: CheckpointLike, part: Component = "dit") -> Checkpoint:
    """Opens a checkpoint; one that is open already is returned as it is.

    Args:
        path: a .safetensors file, a shard or the index of a sharded one, or a folder with one.
        part: which one to take of a file that holds several, see `bundles`.

    Raises:
        CheckpointError: for anything that is not one whole, healthy part of Wan2.2.
    """
    if isinstance(path, Checkpoint):
        return path
    path = Path(path)
    try:
        files = find_files(path)
        tensors, metadata = _read_headers(path, files)
        config_json = _config_beside(files)
    except OSError as error:
        raise CheckpointError(
            f"{path.name} cannot be read. Got {error.strerror or error}, need a readable file. "
            "Check the path and its permissions."
        ) from error
    tensors, short = _part(path, tensors, part)
    kind, style = _recognise(path, tensors, short)
    rename = official_names(kind.component, style, {short(raw.name) or "" for raw in tensors})

    def official(key: str) -> str | None:
        name = short(key)
        return None if name is None else rename(name)

    named, remarks = set_down(_named(path, [(official(raw.name) or "", raw) for raw in tensors]))
    if any(map(is_gguf, files.files)):
        named = whole_shapes(path.name, kind.component, named)
    entries = group(path.name, named, metadata, official)
    _refuse_blocks_outside_of_transformers(path, kind, entries.values())
    config = kind.read_config(Clues(file=path.name, entries=entries, config_json=config_json))
    dit_kind = config.kind if isinstance(config, DiTConfig) else None
    return Checkpoint(
        folder=files.folder,
        kind=kind,
        entries=entries,
        extras={name: raw for name, raw in named.items() if name.rpartition(".")[2] in EXTRAS},
        metadata=metadata,
        info=CheckpointInfo(
            path=path,
            component=kind.component,
            config=config,
            kind=dit_kind,
            variant=variant_of(config),
            expert=guess_expert(path) if dit_kind in ("t2v", "i2v") else None,
            formats=_formats(entries.values()),
            bytes=sum(raw.nbytes for raw in tensors),
            parameters=sum(math.prod(entry.shape) for entry in entries.values()),
            key_style=style,
            remarks=remarks,
        ),
    )


def _config_beside(files: CheckpointFiles) -> str | None:
    """Returns the text of config.json in the checkpoint's own folder, if it has both."""
    config = files.folder / "config.json" if files.folder else None
    if config is None or not config.is_file():
        return None
    if config.stat().st_size > MAX_CONFIG_BYTES:
        raise CheckpointError(
            f"config.json beside {files.files[0].name} cannot be used. Got {config.stat().st_size} "
            f"bytes, need at most {MAX_CONFIG_BYTES}. Download config.json again."
        )
    return config.read_text("utf-8", "replace")


def _read_headers(path: Path, files: CheckpointFiles) -> tuple[list[RawTensor], dict[str, str]]:
    """Returns all tensors of a checkpoint's files, which its index must describe."""
    tensors: list[RawTensor] = []
    metadata: dict[str, str] = {}
    for file in files.files:
        gguf = file.suffix.lower() == ".gguf" or is_gguf(file)
        source = open_gguf(file) if gguf else open_safetensors(file)
        tensors += source.tensors
        metadata |= source.metadata
    present = {(raw.name, raw.file.name) for raw in tensors}
    absent = [name for name, file in files.keys.items() if (name, file) not in present]
    if absent:
        raise CheckpointError(
            f"The index of {path.name} does not fit its parts. Got parts without {len(absent)} "
            f"keys ({first_names(absent)}), need every key in the part that the index names. "
            "Download index and parts again, from the same place."
        )
    return tensors, metadata


ShortName = Callable[[str], str | None]
"""From a key to its name without prefix; None for keys of parts that were not asked for."""


def _part(
    path: Path, tensors: list[RawTensor], part: Component
) -> tuple[list[RawTensor], ShortName]:
    """Returns the tensors that were asked for, all unless the file holds a whole pipeline."""
    if not is_bundle(raw.name for raw in tensors):
        return tensors, strip_prefix
    within = part_name(part)

    def short(key: str) -> str | None:
        name = within(key)
        return None if name is None else strip_prefix(name)

    chosen = [raw for raw in tensors if short(raw.name) is not None]
    if not chosen:
        what = next(kind.label for kind in COMPONENTS if kind.component == part)
        raise CheckpointError(
            f"{path.name} is an all-in-one file without a {what}. Got no tensors named "
            f"{' or '.join(PART_PREFIXES[part])}..., need those. Choose a separate file here."
        )
    return chosen, short


def _recognise(
    path: Path, tensors: list[RawTensor], short: ShortName
) -> tuple[ComponentKind, KeyStyle]:
    keys = [raw.name for raw in tensors]
    found = recognise([short(key) or "" for key in keys])
    if isinstance(found, OtherModel):
        error = RelativeError if found in WAN_RELATIVES else CheckpointError
        raise error(
            f"{path.name} is not a supported model. Got {found.what}, need a Wan2.2 T2V-A14B, "
            f"I2V-A14B or TI2V-5B model, a Wan VAE or a umT5 text encoder. {found.advice}"
        )
    kind, style = found
    prefixed = style == "official" and any(key.startswith(PREFIXES) for key in keys)
    return kind, "comfy prefix" if prefixed else style


def _named(path: Path, tensors: list[tuple[str, RawTensor]]) -> dict[str, RawTensor]:
    """Returns tensors by official name, of which each must be there once."""
    named: dict[str, RawTensor] = {}
    doubled: list[str] = []
    for name, raw in tensors:
        if name in named:
            doubled.append(f"{named[name].name} and {raw.name}")
        named[name] = raw
    if doubled:
        raise CheckpointError(
            f"{path.name} holds tensors twice. Got {len(doubled)} doubled keys "
            f"({first_names(doubled)}), need each tensor once. Use an unmerged original file."
        )
    return named


def _refuse_blocks_outside_of_transformers(
    path: Path, kind: ComponentKind, entries: Iterable[WeightEntry]
) -> None:
    for entry in entries:
        if entry.format.block > 1 and len(entry.parts) > 1 and kind.component != "dit":
            what = f"{entry.format.name} of a {kind.component}"
            raise unsupported(path.name, what, next(iter(entry.parts.values())).name)


def _formats(entries: Iterable[WeightEntry]) -> tuple[WeightFormat, ...]:
    """Returns the formats of the matrices that make up a model's size, that of most weights first.

    Those are the matrices of its blocks, or else all. The small tables of position biases in text
    encoders are usually left unquantized.
    """
    large = [
        entry
        for entry in entries
        if entry.name.endswith(".weight") and len(entry.shape) > 1
        if "attention_bias" not in entry.name and "pos_embedding" not in entry.name
    ]
    sizes = Counter[str]()
    by_name: dict[str, WeightFormat] = {}
    for entry in [entry for entry in large if "block" in entry.name] or large:
        by_name[entry.format.name] = entry.format
        sizes[entry.format.name] += math.prod(entry.shape)
    return tuple(by_name[name] for name, _ in sizes.most_common())
